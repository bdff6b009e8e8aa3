"""HDF5 files, as far as h5py tells: which datasets there are, where they lie, and their values.

libhdf5 walks the groups and reads what is stored in any but the plain way. It never gets to open
another file: what HDF5 keeps elsewhere (external links, external storage, virtual datasets) is
listed, but not read. It is asked for sizes before it is asked for values.

`source` is the file as libhdf5 reads it, `file` holds it open, `contents` walks its groups,
`datasets` says what lies in them, and `values` reads what is not plain.
"""
