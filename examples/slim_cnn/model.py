"""The network of the checkpoint, in PyTorch."""

import torch
from torch import nn
from torch.nn import functional


class SlimCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8, eps=0.001)  # TensorFlow's epsilon, torch's own is 0.00001
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, bias=False)
        self.bn2 = nn.BatchNorm2d(12, eps=0.001)
        self.fc3 = nn.Linear(4 * 4 * 12, 16)
        self.logits = nn.Linear(16, 10)

    def forward(self, images):
        x = torch.relu(self.bn1(self.conv1(images)))
        # SAME with a stride of 2: TensorFlow pads an even size below and to the right alone.
        x = functional.pad(x, (0, 1, 0, 1))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = torch.relu(self.fc3(x.flatten(1)))
        return self.logits(x)


def build():
    return SlimCNN()


def run(model, inputs):
    """Of images [n, height, width, channels], as TensorFlow has them."""
    return model(torch.from_numpy(inputs).permute(0, 3, 1, 2))
