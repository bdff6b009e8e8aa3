"""The network of the checkpoint, in PyTorch."""

import torch
from torch import nn


class LSTMTagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(40, 8)
        self.lstm = nn.LSTM(8, 6, batch_first=True, bidirectional=True)
        self.projection = nn.Linear(12, 5)

    def forward(self, words):
        x, _ = self.lstm(self.embedding(words))
        return self.projection(x)


def build():
    return LSTMTagger()


def run(model, inputs):
    return model(torch.from_numpy(inputs))
