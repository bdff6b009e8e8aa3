"""Rule files: what they may hold, what is said of what they may not, and what comes back."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import tfreader
from tfreader.mapping import dump_rules, load_rules
from tfreader.mapping.families import families
from tfreader.mapping.rules.ops import OPS, Join, Permute, Repeat, Slice, Unstack
from tfreader.mapping.rules.rule import (
    Architecture,
    Drop,
    Fill,
    Rule,
    RuleSet,
    Tie,
    fill_in,
    resolve_ties,
)
from tfreader.mapping.rules.rule_file import parse_rules, rules_from_data

RULE = "[[rule]]\nsource = 'a'\ntarget = 'b'\n"
FILL = "[[fill]]\ntarget = 'x'\nshape = [1]\nvalue = 'zeros'\n"
MISTAKES = [
    # What beginners write
    (RULE + 'ops = "transpose"', r'\[\[rule\]\] 1: ops: .* write \["transpose"\]'),
    (RULE + "ops = {op = 'squeeze', axis = 0}", r"put \[ and \] around"),
    (
        RULE + 'ops = ["transpose", ["permute", 3, 2, 0, 1]]',
        r'ops: item 2: .* write \{ op = "permute", axes = \[3, 2, 0, 1\] \}',
    ),
    (RULE + 'ops = [["squeeze", 0]]', r'write \{ op = "squeeze", axis = 0 \}'),
    (RULE + 'ops = [["transpose"]]', 'write "transpose"'),
    (RULE + "ops = [{permute = [1, 0]}]", "a table without op: permute"),
    (RULE + 'ops = ["tranpose"]', "'transpose' is meant"),
    (RULE + 'ops = [{op = "transpose", axes = [1, 0]}]', "takes no arguments.*'axes'"),
    ("[rule]\nsource = 'a'\ntarget = 'b'", r"two brackets, \[\[rule\]\]"),
    ("[[rules]]\nsource = 'a'", "'rule' is meant"),
    ("[[counts]]\nlayer = 'n'\n" + RULE, r"one bracket, \[counts\]"),
    ("source = 'a'\n" + RULE, r"belongs below \[\[rule\]\]"),
    (
        r"""[[rule]]
source = 'conv(\d)'
target = 'conv\1'""",
        r"'conv\\1'.*\(\?P<n>\.\.\.\)",
    ),
    (
        r"""[[rule]]
source = "conv(\d)"
target = 'conv'""",
        "line 2.*single quotes",
    ),
    ("[[rule]]\nsource = 'conv(.)'\ntarget = 'conv{1}'", "write a group"),
    ("[[rule]]\nsource = 'conv(.)'\ntarget = 'conv$1'", r"'conv\$1'.*\(\?P<n>\.\.\.\)"),
    ("[[rule]]\nsource = '*/kernel'\ntarget = 'x'", r"for any text write \.\*"),
    ("[[rule]]\nsource = ['a', 'b']\ntarget = 'x'", "need one concat or stack"),
    ("[[rule]]\nsource = 'a'\ntarget = ['x', 'y']", "need one split"),
    (RULE + "[[drop]]\nsource = 'x'", r"\[\[drop\]\] 1: reason is missing"),
    (RULE + FILL, r"\[\[fill\]\] 1: reason is missing"),
    (RULE + FILL.replace("'x'", "'x.{i}'") + "reason = 'r'", r"'x.\{i\}'.* no groups"),
    (RULE + RULE.replace("'a'", "'('"), r"\[\[rule\]\] 2: .*bad regular expression"),
    ("", r"no \[\[rule\]\]"),
    # What would overwrite or fill something twice
    (
        "[[rule]]\nsource = '(?P<i>a)'\ntarget = '{i}'\n"
        "ops = [{op = 'unstack', axis = 0, index = 'i'}]",
        "one would overwrite the other",
    ),
    (RULE + "ops = [{op = 'unstack', axis = 0, index = 'i'}]", r"must have \{i\}"),
    (RULE + 2 * (FILL + "reason = 'r'\n"), "fill 'x': 2 of them"),
    (RULE + 2 * "[[tie]]\nalias = 'x'\ntarget = 'b'\n", "tie 'x': 2 of them"),
    (
        "[[rule]]\nsource = 'a'\ntarget = ['x', 'x']\nops = [{op = 'split', axis = 0}]",
        "named twice",
    ),
    # Other types, and numbers that are none
    (RULE + 'shape = "--5"', "shape: expected a list"),
    (RULE + 'shape = [1, "--5"]', "shape: item 2: expected a number, a config key"),
    (RULE + 'shape = ["²"]', "'²'"),
    (RULE + f"shape = ['{'5' * 5000}']", r"found '5+\.\.\.5+'"),
    (RULE + f"shape = [{'5' * 5000}]", "number in it is too long"),
    (RULE + f"shape = [0x{'f' * 5000}]", "more than 64 bits"),
    (RULE + f"ops = [{{op = 'squeeze', axis = 0x{'f' * 5000}}}]", "more than 64 bits"),
    (RULE + f"shape = ['{'*'.join('abcdefghijk')}']", "a few of them"),
    (RULE + "shape = [true]", "expected an integer, found true"),
    (RULE + "shape = [1.5]", "expected an integer, found 1.5"),
    (RULE + "required = 1", "expected true or false, found 1"),
    (RULE + "part = 1979-05-27", "expected a string, found 1979-05-27"),
    (RULE + "ops = [{op = []}]", "a table without op"),
    (RULE + "ops = [[[]]]", "a list of 1"),
    (RULE + "ops = [{op = 'permute', axes = 'x'}]", "expected a list"),
    (RULE + "ops = [{op = 'unstack', axis = 0, index = '}'}]", "letters, digits"),
    ("[[rule]]\nsource = []\ntarget = 'x'", "list is empty"),
    ("[[rule]]\nsource = ''\ntarget = 'x'", "not empty"),
    ("drop = 5\n" + RULE, r"expected \[\[drop\]\] tables, found 5"),
    ("drop = [5]\n" + RULE, r"\[\[drop\]\] 1: expected a table, found 5"),
    ("counts = 5\n" + RULE, "found 5"),
    (RULE + "[counts]\nlayer = 5", "layer: expected a string, found 5"),
    ("needs = 'x'\n" + RULE, "needs: expected a list"),
    ("needs = [5]\n" + RULE, "needs: item 1: expected a string"),
    ("[[config]]\nx = 1\n" + RULE, r"one bracket, \[config\]"),
    ("config = 5\n" + RULE, "config: expected keys and values, found 5"),
    ("[config]\n'a b' = 5\n" + RULE, "config: expected a config key"),
    ("[config]\na = {b = [nan]}\n" + RULE, "config: a: b: item 1: .*JSON can hold, found nan"),
    ("[config]\na = 1979-05-27\n" + RULE, "config: a: .*JSON can hold, found 1979-05-27"),
    (RULE + "dtype = 'float8'", r"\[\[rule\]\] 1: rule 'a': dtype 'float8': there are bool, "),
    (RULE + FILL + "reason = 'r'\ndtype = 'int'", r"\[\[fill\]\] 1: .*dtype 'int': there are"),
    ("family = 3\n" + RULE, "family: expected a string"),
    ("family = 'bert'\nextends = 'bert'\n" + RULE, "either family or extends"),
    (RULE + "[[tie]]\nalias = '{0.__class__}'\ntarget = 'b'", "braces go around"),
    (RULE + "[[tie]]\nalias = 'x'\ntarget = 'b{'", "braces go around"),
    (RULE + FILL.replace("zeros", "ones-ish") + "reason = 'r'", "no value to fill with"),
    (RULE + FILL.replace("zeros", "identity") + "reason = 'r'", "2 axes, not of 1"),
    (RULE + FILL.replace("[1]", "[-1]") + "reason = 'r'", "expected a size, found -1"),
    (RULE + "[[drop]]\nsource = '('\nreason = 'r'", "bad regular expression"),
    ("[[rule]]\nsource = 'a{99999999999}'\ntarget = 'x'", "too large"),
    (f"[[rule]]\nsource = '{'(' * 5000}{')' * 5000}'\ntarget = 'x'", "bad regular expression"),
    ("a = " + "[" * 5000, "too many brackets"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_explained_with_their_place(text, message):
    with pytest.raises(tfreader.RuleError, match=message) as caught:
        parse_rules(text, "mine.toml")
    assert str(caught.value).startswith("mine.toml: ")
    assert len(str(caught.value)) < 1000


def test_the_rule_files_and_operations_of_the_docs():
    text = (ROOT / "docs" / "rules.md").read_text()
    for block in re.findall("```toml\n(.*?)```", text, re.DOTALL):
        assert parse_rules(block, "docs").rules
    shown = re.findall(r"^\| `(\"\w+\"|\{ op = .*?\})` \|", text, re.MULTILINE)
    names = {"".join(re.findall(r'^"(\w+)|op = "(\w+)', op)[0]) for op in shown}
    assert names == set(OPS)
    joins = [name for name, op in OPS.items() if issubclass(op, Join)]
    sources = dict.fromkeys(joins, '["a", "b"]')
    targets = {"split": '["x", "y"]', "unstack": '"{layer}"'}
    for op in shown:
        (name,) = re.findall(r"^\"(\w+)|op = \"(\w+)", op)
        name = "".join(name)
        source, target = sources.get(name, '"a"'), targets.get(name, '"x"')
        parse_rules(f"[[rule]]\nsource = {source}\ntarget = {target}\nops = [{op}]", "docs")


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "rules.toml").write_text(RULE, "utf-16")
    with pytest.raises(tfreader.RuleError, match=r"rules.toml.*UTF-8"):
        load_rules(tmp_path / "rules.toml")
    (tmp_path / "rules.toml").write_text(RULE, "utf-8-sig")  # as Windows' editors save it
    assert load_rules(tmp_path / "rules.toml").rules == (Rule(("a",), ("b",)),)


def test_printed_rules_of_every_layout_read_back_equal(tmp_path):
    path = tmp_path / "rules.toml"
    usual = [layout.usual() for f in families().values() for layout in f.layouts]
    for rules in (rules for rules in usual if rules.rules):  # of hf-tf a checkpoint tells them
        path.write_text(dump_rules(rules))
        assert load_rules(path) == replace(rules, name=str(path))


def test_any_rule_set_reads_back_equal():
    text = "a'\"\\\x00\x7f\r\n\té{}"
    name = text.replace("\\", "").replace("{}", "")
    rules = RuleSet(
        rules=(
            Rule(
                (r"(?P<größe>\d+)'\"\n",),
                (name + "{größe}{i}",),
                (Permute((-1, 0)), Repeat("n"), Slice(-1, 0, "n"), Unstack(0, "i")),
                ("*", 3, "größe*b/2"),
                name,
                required=False,
                dtype="int64",
            ),
        ),
        counts={"größe": "hidden-größe"},
        architectures=(Architecture(name, (name, "b?"), (name,), name),),
        drops=(Drop(r"\\", text),),
        ties=(Tie(name + "{größe}", name, name),),
        fills=(Fill(name, (3, "n"), "identity", text, name, "uint8"),),
        extends=name,
        remarks=(text,),
        needs=(name, text),
        config={"größe": [1, -2.5e-12, True, {text: text}], "a.b": {}},
        name="test",
    )
    assert parse_rules(dump_rules(rules), "test") == rules


def test_rules_that_extend_a_family_need_none_of_their_own():
    rules = parse_rules("extends = 'bert'\n[[drop]]\nsource = 'x'\nreason = 'r'", "mine.toml")
    assert (rules.extends, rules.family, rules.rules) == ("bert", None, ())


def test_templates_are_no_format_strings():
    assert fill_in("{a}.{b}", {"a": 1, "b": "{a}"}) == "1.{a}"
    rule = Rule(("(?P<a>.*)",), ("{a}",))
    assert fill_in(rule.targets[0], {"a": "{0.__class__}"}) == "{0.__class__}"


def test_ties_lead_to_tensors_or_are_named():
    ties = [("a", "b"), ("b", "x"), ("own", "x"), ("c", "d"), ("d", "c"), ("e", "none")]
    found, problems = resolve_ties(ties, {"x", "own"})
    assert found == {"a": "x", "b": "x"}
    assert len(problems) == 3
    assert "e is tied to none" in problems[2]
    chain = [(str(i), str(i + 1)) for i in range(20_000)]
    assert set(resolve_ties(chain, {"20000"})[0].values()) == {"20000"}
    assert set(resolve_ties(chain[::-1], {"20000"})[0].values()) == {"20000"}


# As parsed TOML: tables of the right keys and of others, with values of the right types and others.
PLAIN = st.one_of(
    st.sampled_from(["a", "b", "{layer}", "(?P<layer>x|y)", "zeros", "transpose", "--5", "²", "("]),
    st.sampled_from([0, -1, 7, 10**30, True, False, 1.5, float("nan")]),
    st.text(max_size=5),
    st.dates(),
)
VALUE = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["op", "axis", "axes", "to", "index", "x"]), inner),
    ),
    max_leaves=8,
)
KEYS = [
    ["source", "target", "ops", "shape", "part", "required", "dtype"],
    ["source", "reason"],
    ["alias", "target", "part"],
    ["target", "shape", "value", "reason", "part", "dtype"],
    ["name", "parts", "heads", "strip"],
]
TABLE = st.sampled_from(KEYS).flatmap(
    lambda keys: st.fixed_dictionaries(
        dict.fromkeys(keys[:2], PLAIN), optional=dict.fromkeys(keys[2:], VALUE)
    )
)
FILE = st.fixed_dictionaries(
    {"rule": st.one_of(st.lists(TABLE, max_size=3), VALUE)},
    optional={
        **dict.fromkeys(["drop", "tie", "fill", "architecture"], st.one_of(st.lists(TABLE), VALUE)),
        **dict.fromkeys(["counts", "config", "family", "extends", "needs", "more"], VALUE),
    },
)


@settings(deadline=None, max_examples=300)
@given(FILE)
def test_anything_else_is_a_rule_set_or_an_error(data):
    try:
        rules = rules_from_data(data, "test")
    except tfreader.RuleError as error:
        assert len(str(error)) < 1000
        return
    assert parse_rules(dump_rules(rules), "test") == rules


def test_cut_rule_files_are_rule_sets_or_errors(tmp_path):
    import fuzz_files

    for target, seed in fuzz_files.seeds():
        if target is fuzz_files.rules:
            for cut in range(1, len(seed), max(1, len(seed) // 50)):
                fuzz_files.rules(seed[:cut] + seed[cut + 1 :], tmp_path)
