"""Train a small convolutional network to tell three shapes apart: an ordinary script, which knows nothing of atoll."""

import argparse
import copy

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

SIZE, CLASSES = 16, ("square", "ring", "cross")


def draw(kind, random):
    """A noisy image (1, SIZE, SIZE) of a shape at a random place."""
    y, x = np.mgrid[:SIZE, :SIZE] - random.uniform(5, 10, size=(2, 1, 1))
    radius = random.uniform(2.5, 5)
    square = np.maximum(abs(x), abs(y)) < radius
    ring, cross = abs(np.hypot(x, y) - radius) < 1, square & (np.minimum(abs(x), abs(y)) < 1)
    shapes = {"square": square, "ring": ring, "cross": cross}
    return (shapes[kind] + random.normal(0, 0.5, (SIZE, SIZE)))[None].astype(np.float32)


class Shapes(Dataset):
    def __init__(self, count, seed, augment=False):
        random = np.random.default_rng(seed)
        self.labels = random.integers(0, len(CLASSES), count)
        self.images = [draw(CLASSES[label], random) for label in self.labels]
        self.augment = augment

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = torch.from_numpy(self.images[index])
        if self.augment:
            down, right = np.random.randint(-2, 3, size=2)
            image = image.roll((int(down), int(right)), dims=(1, 2))
            image = image.flip(1) if np.random.rand() < 0.5 else image
        return image, int(self.labels[index])


def block(inputs, outputs):
    # No bias: batch normalization takes it out again.
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        convolutions = *block(1, width), nn.MaxPool2d(2), *block(width, 2 * width), nn.AdaptiveMaxPool2d(2)
        self.features = nn.Sequential(*convolutions)
        self.head = nn.Linear(8 * width, len(CLASSES))

    def forward(self, images):
        return self.head(self.features(images).flatten(1))


def make_optimizer(net, lr, weight_decay):
    """AdamW in two groups: biases and normalization do not decay."""
    some = [[p for p in net.parameters() if (p.ndim > 1) == decays] for decays in (True, False)]
    groups = [{"params": some[0], "weight_decay": weight_decay}, {"params": some[1], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr)


def make_schedule(optimizer, lr, num_steps):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, num_steps, cycle_momentum=False)


def confusion(logits, labels):
    """Counts (classes, classes) of the true and the predicted classes."""
    num = len(CLASSES)
    return torch.bincount(num * labels + logits.argmax(1), minlength=num**2).reshape(num, num).double()


def macro_f1(counts):
    return (2 * counts.diag() / (counts.sum(0) + counts.sum(1)).clamp(min=1)).mean().item()


def fit(net, train_loader, validation_loader, args):
    """Train; returns each epoch's training loss and macro F1, and the best epoch's weights."""
    loss_of = nn.CrossEntropyLoss(label_smoothing=args.smoothing)
    optimizer = make_optimizer(net, args.lr, args.weight_decay)
    schedule = make_schedule(optimizer, args.lr, args.epochs * len(train_loader))
    history, best = [], (-1.0, None)
    for epoch in range(args.epochs):
        net.train()
        losses = []
        for images, labels in train_loader:
            optimizer.zero_grad()
            loss = loss_of(net(images), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), args.clip)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        net.eval()
        with torch.no_grad():
            f1 = macro_f1(sum(confusion(net(images), labels) for images, labels in validation_loader))
        history.append((sum(losses) / len(losses), f1))
        print(f"epoch {epoch + 1}: training loss {history[-1][0]:.4f}, macro F1 {f1:.4f}")
        if f1 > best[0]:
            best = f1, copy.deepcopy(net.state_dict())
    return history, best[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    settings = {"epochs": 6, "batch-size": 32, "lr": 0.01, "weight-decay": 0.05, "smoothing": 0.1, "clip": 1.0}
    for name, default in (settings | {"width": 8, "workers": 2}).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    args = parser.parse_args()
    torch.manual_seed(0)
    train = DataLoader(Shapes(640, 0, augment=True), args.batch_size, True, num_workers=args.workers, drop_last=True)
    validation = DataLoader(Shapes(160, 1), 256)
    history, weights = fit(Net(args.width), train, validation, args)
    torch.save(weights, "best.pt")
    print(f"best macro F1 {max(f1 for _, f1 in history):.4f}")


if __name__ == "__main__":
    main()
