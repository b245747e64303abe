"""Data: what is read, how it is split and made binary, and what is refused."""

import gzip
import math
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import pyrovae
from pyrovae import files
from pyrovae.data import Split, Splits, at_random, from_arrays, load, sources, subset, with_labels
from pyrovae.data.split import LABELS, as_split, batches, blocks, by_label, known, split_rows
from pyrovae.training.sampler import Sampler


def test_digits_are_the_digits(digits):
    from sklearn.datasets import load_digits

    assert (len(digits.train), len(digits.valid), len(digits.test)) == (1258, 180, 359)
    assert digits.event_shape == (1, 8, 8)
    assert digits.num_classes == 10
    assert digits.train.x.dtype == torch.uint8
    whole = load("digits", binarize="none", valid=0, test=0).train
    torch.testing.assert_close(whole[:][:, 0], torch.tensor(load_digits().images / 16).float(), rtol=0, atol=0.002)
    assert torch.equal(whole.y, torch.tensor(load_digits().target))


def test_mnist_is_mnist(mnist_root):
    mnist = load("mnist", root=mnist_root, valid=0, binarize="none")
    assert (len(mnist.train), len(mnist.test), mnist.valid) == (60000, 10000, None)
    assert mnist.train.x.float().mean().item() / 255 == pytest.approx(0.1306604, abs=1e-6)
    assert torch.bincount(mnist.test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_the_split_is_the_same_for_every_run_and_leaves_nothing_out():
    x = np.arange(100, dtype=np.float32)[:, None]
    torch.manual_seed(1)
    first = from_arrays(x, valid=0.25, test=10)
    torch.manual_seed(2)
    again = from_arrays(x, valid=0.25, test=10)
    assert [len(part) for part in (first.train, first.valid, first.test)] == [65, 25, 10]
    assert torch.equal(first.valid.x, again.valid.x)
    together = torch.cat([first.train.x, first.valid.x, first.test.x]).flatten().sort().values
    assert together.tolist() == list(range(100))


def test_dynamic_binarisation_is_fresh_in_training_and_fixed_in_test(digits):
    assert not torch.equal(digits.train[:], digits.train[:])
    assert torch.equal(digits.test[:], digits.test[:])
    torch.manual_seed(1)
    other = load("digits")
    assert torch.equal(digits.test[:], other.test[:])
    assert set(digits.train[:].unique().tolist()) == set(digits.test[:].unique().tolist()) == {0.0, 1.0}


def test_dynamic_binarisation_has_the_grey_values_as_its_mean(digits):
    grey = digits.train.x[:50] / 255
    drawn = torch.stack([digits.train[:50] for _ in range(2000)]).mean(0)
    assert (drawn - grey).abs().max() < 5 * 0.5 / 2000**0.5
    fixed = load("digits", binarize="none").test[:].mean()
    assert digits.test[:].mean().item() == pytest.approx(fixed.item(), abs=0.01)


def test_threshold_and_none():
    grey = load("digits", binarize="none")
    assert torch.equal(load("digits", binarize="threshold").test[:], (grey.test[:] > 0.5).float())
    assert len(grey.train[:].unique()) == 17


def test_vectors_stay_as_they_are():
    x = np.random.default_rng(0).normal(size=(20, 3))
    splits = from_arrays(x, valid=0, test=0)
    torch.testing.assert_close(splits.train[:], torch.tensor(x).float())


@pytest.mark.parametrize("x", [torch.randn(20, 3).bfloat16(), torch.randn(20, 3, requires_grad=True)])
def test_tensors_that_numpy_does_not_know_are_data(x):
    found = from_arrays(x, valid=0, test=0).train.x
    assert torch.equal(found, x.detach().float())
    assert not found.requires_grad


def save_images(folder, count, size=(6, 4), mode="L", start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = np.full((size[1], size[0], *((3,) if mode == "RGB" else ())), start + i, np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_a_folder_of_images(tmp_path, mode, channels):
    save_images(tmp_path / "cat", 6, mode=mode)
    save_images(tmp_path / "dog", 4, mode=mode, start=100)
    splits = load(tmp_path, binarize="none", valid=2, test=2)
    assert splits.event_shape == (channels, 4, 6)
    assert [len(part) for part in (splits.train, splits.valid, splits.test)] == [6, 2, 2]
    assert splits.num_classes == 2
    for part in (splits.train, splits.valid, splits.test):
        assert torch.equal(part.y, (part.x[:, 0, 0, 0] >= 100).long())


def test_a_folder_with_parts_of_its_own(tmp_path):
    save_images(tmp_path / "train" / "a", 5)
    save_images(tmp_path / "test" / "a", 3, start=50)
    splits = load(tmp_path, valid=0, binarize="none")
    assert (len(splits.train), splits.valid, len(splits.test)) == (5, None, 3)
    assert (splits.test[:] * 255).flatten().unique().round().tolist() == [50, 51, 52]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train", "car", "boat"], "no folder but the parts train and test, found some in boat, car"),
        (["train/a", "test/a", "val/a"], "no folder but the parts train and test, found some in val"),
        (["train/a", "train/b", "test/a", "test/dog"], "test: expected the 2 classes of train, found others: dog"),
        (["a", "b", "."], r"00.png: expected all images in folders, their classes, or none, found some beside them"),
    ],
)
def test_folders_beside_those_that_are_known_are_refused(tmp_path, folders, message):
    for folder in folders:
        save_images(tmp_path / folder, 5)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, valid=0)


def test_folders_without_images_are_nothing_beside_those_that_are_known(tmp_path):
    for folder, count in (("train/a", 5), ("train/b", 5), ("test/a", 5), ("test/dog", 0), ("notes", 0)):
        save_images(tmp_path / folder, count)
    splits = load(tmp_path, valid=0)
    assert (len(splits.train), splits.test.y.tolist()) == (10, [0] * 5)


def test_colours_after_grey_pixels_are_refused(tmp_path):
    save_images(tmp_path, 6)
    pixels = np.full((4, 6, 3), 7, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "later.png")
    assert load(tmp_path, valid=0, test=0, binarize="none").train.x[6].unique().tolist() == [7]
    pixels[2, 3, 1] = 9
    Image.fromarray(pixels).save(tmp_path / "later.png")
    with pytest.raises(ValueError, match=r"later.png: expected grey pixels like 00.png, found coloured ones"):
        load(tmp_path)


def test_what_is_too_large_is_read_when_asked_for(tmp_path, monkeypatch):
    """Lazily read rows give the same numbers, binarisation included, as those in memory."""
    save_images(tmp_path / "images", 9, start=90)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 255, (9, 4, 6), dtype=np.uint8))
    for path in (tmp_path / "images", tmp_path / "x.npy"):
        resident = load(path, valid=3, test=3)
        with monkeypatch.context() as patched:
            patched.setattr(sources, "RESIDENT_BYTES", 1)
            lazy = load(path, valid=3, test=3)
        assert not isinstance(lazy.train.x, torch.Tensor)
        assert torch.equal(lazy.test[:], resident.test[:])
        found = []
        for splits in (lazy, resident):
            torch.manual_seed(1)
            found.append(torch.cat([rows for (rows,) in batches(splits.train, torch.arange, 2)]))
        assert torch.equal(*found)
        vae = pyrovae.VAE(lazy.event_shape, 2)
        assert pyrovae.fit(vae, lazy, epochs=1, batch_size=2)[0]["step"] == 2


@pytest.mark.parametrize(
    ("shape", "event_shape"),
    [((5, 7), (7,)), ((5, 8, 6), (1, 8, 6)), ((5, 3, 8, 6), (3, 8, 6)), ((5, 8, 6, 3), (3, 8, 6))],
)
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_arrays_on_disk(tmp_path, shape, event_shape, ending):
    x = np.random.default_rng(0).random(shape)
    path = tmp_path / f"data.{ending}"
    np.save(path, x) if ending == "npy" else np.savez(path, x=x, y=np.arange(5))
    splits = load(path, binarize="none", valid=0, test=0)
    assert splits.event_shape == event_shape
    assert splits.train[:].double().sum().item() == pytest.approx(x.sum(), rel=1e-5)


def test_npz_with_parts_of_its_own(tmp_path):
    np.savez(
        tmp_path / "d.npz", x_train=np.zeros((4, 2)), y_train=np.arange(4), x_test=np.ones((3, 2)), y_test=np.arange(3)
    )
    splits = load(tmp_path / "d.npz", valid=0)
    assert splits.test[:].tolist() == [[1, 1]] * 3
    assert splits.num_classes == 4


@pytest.mark.parametrize("size", [1, 3, 4, 10, 50])
def test_blocks_are_of_one_size_however_the_data_come(size):
    x = torch.arange(23.0)[:, None]
    for data in (x, Split(x), TensorDataset(x), DataLoader(x, batch_size=7)):
        found = [block for (block,) in blocks(data, size)]
        assert all(len(block) == size for block in found[:-1])
        assert torch.equal(torch.cat(found), x)


def test_batches_follow_the_order():
    x = torch.arange(10.0)[:, None]
    order = torch.randperm(10)
    found = [batch for (batch,) in batches(Split(x), lambda n: order, 4)]
    assert [len(each) for each in found] == [4, 4, 2]
    assert torch.equal(torch.cat(found), x[order])


def test_a_share_and_a_count():
    rows = split_rows(50, {"test": 0.1, "valid": 7})
    assert {name: len(index) for name, index in rows.items()} == {"test": 5, "valid": 7, "train": 38}


def write_idx(path, array, magic):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">{array.ndim + 1}i", magic, *array.shape) + array.tobytes())


@pytest.fixture
def fashion(tmp_path):
    """FashionMNIST's files with noise in them: right names and lengths."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 60000), ("t10k", 10000)):
        raw = tmp_path / "FashionMNIST" / "raw"
        write_idx(raw / f"{part}-images-idx3-ubyte", rng.integers(0, 255, (n, 28, 28), dtype=np.uint8), 2051)
        write_idx(raw / f"{part}-labels-idx1-ubyte", rng.integers(0, 10, n, dtype=np.uint8), 2049)
    return tmp_path


def test_idx_files_of_the_right_length_load(fashion, monkeypatch):
    monkeypatch.setitem(sources._SHA256, "FashionMNIST", {})
    splits = load("fashion_mnist", root=fashion, binarize="none", valid=1000)
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (59000, 1000, 10000)
    assert splits.num_classes == 10


def test_a_truncated_file_is_named(fashion):
    path = fashion / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte: expected 7840016 bytes, found 7840011"):
        load("fashion_mnist", root=fashion)


def test_replaced_mnist_files_are_noticed(fashion):
    (fashion / "FashionMNIST").rename(fashion / "MNIST")
    with pytest.raises(ValueError, match="train-images-idx3-ubyte: its content is not MNIST's"):
        load("mnist", root=fashion)


@pytest.mark.parametrize(("name", "folder"), [("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")])
def test_files_of_another_dataset_are_named(fashion, monkeypatch, name, folder):
    """Here the noise stands for MNIST's files, by its digests."""
    raw = fashion / "FashionMNIST" / "raw"
    monkeypatch.setitem(sources._SHA256, "MNIST", {each.name: files.sha256(each) for each in raw.iterdir()})
    monkeypatch.setitem(sources._SHA256, folder, {})
    (fashion / "FashionMNIST").rename(fashion / folder)
    with pytest.raises(ValueError, match=f"train-images-idx3-ubyte: its content is not {folder}'s, but MNIST's"):
        load(name, root=fashion)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=f"its content is not {folder}'s .expected sha256 [0-9a-f]{{64}}"):
        load(name, root=fashion)


def test_missing_files_and_no_network(tmp_path, monkeypatch):
    from torchvision.datasets import mnist

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(mnist, "download_and_extract_archive", refuse)
    for name in ("mnist", "kmnist"):
        with pytest.raises(ValueError, match=r"expected the dataset's files here, found none, .*PYROVAE_DATA"):
            load(name, root=tmp_path)


def test_omniglot_is_brought_to_28_by_28(tmp_path, monkeypatch):
    from torchvision.datasets import Omniglot

    monkeypatch.setattr(Omniglot, "_check_integrity", lambda self: True)
    for part, count in (("background", 3), ("evaluation", 2)):
        folder = tmp_path / "omniglot-py" / f"images_{part}" / "Greek" / "character01"
        folder.mkdir(parents=True)
        for i in range(count):
            ink = np.full((105, 105), 255, np.uint8)
            ink[40:60, 40:60] = 0
            Image.fromarray(ink).save(folder / f"{i}.png")
    splits = load("omniglot", root=tmp_path, binarize="none", valid=0)
    assert splits.train.x.shape == (3, 1, 28, 28)
    assert len(splits.test) == 2
    assert splits.train[:].mean().item() == pytest.approx(400 / 105**2, rel=0.02)


def bad(tmp_path):
    (tmp_path / "empty").mkdir()
    save_images(tmp_path / "sizes" / "few", 1, size=(6, 4))
    save_images(tmp_path / "sizes" / "more", 1, size=(5, 4))
    for folder, torn in (("broken", "01.png"), ("broken first", "00.png")):
        save_images(tmp_path / folder, 2)
        (tmp_path / folder / torn).write_bytes(b"not a picture")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01")
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "names.npz", foo=np.zeros((3, 2)))
    (tmp_path / "text.npz").write_bytes(gzip.compress(b"hello"))
    np.savez(tmp_path / "zip.npz", x=np.zeros((3, 2)))
    (tmp_path / "zip.npz").rename(tmp_path / "zip.npy")
    huge = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(huge)) + huge
    (tmp_path / "huge.npy").write_bytes(header + bytes(400))
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("x.npy", header + bytes(400))
    (tmp_path / "token.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", 10) + b"{'descr': ")
    np.savez_compressed(tmp_path / "zlib.npz", x=np.random.default_rng(0).random((200, 2)))
    content = bytearray((tmp_path / "zlib.npz").read_bytes())
    content[200:260] = bytes(60)
    (tmp_path / "zlib.npz").write_bytes(content)
    os.mkfifo(tmp_path / "fifo.npy")
    for folder in ("pipes", "devices", "bomb", "checksum"):
        save_images(tmp_path / folder, 2)
    os.mkfifo(tmp_path / "pipes" / "02.png")
    (tmp_path / "devices" / "02.png").symlink_to("/dev/zero")
    torn = bytearray((tmp_path / "checksum" / "01.png").read_bytes())
    torn[-20] ^= 255
    (tmp_path / "checksum" / "01.png").write_bytes(torn)
    # A header of 30000 x 30000 pixels, with its checksum, and nothing behind it.
    head = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    (tmp_path / "bomb" / "00.png").write_bytes(bomb)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digit", {}, "unknown dataset .*'digit'; did you mean 'digits'"),
        ("", {}, r"unknown dataset .* '' .known: digits, "),
        ("digits", {"binarize": "dynamical"}, "unknown binarize 'dynamical'; did you mean 'dynamic'"),
        ("digits", {"valid": -0.1}, "valid: expected a finite number >= 0"),
        ("digits", {"valid": 5000}, "expected rows left to train on"),
        ("empty", {}, "expected images, found none"),
        ("sizes", {}, "expected 6 x 4 pixels like .*, found 5 x 4"),
        ("broken", {}, "01.png: expected an image, found a damaged file"),
        ("broken first", {}, "00.png: expected an image, found a damaged file"),
        ("cut.npy", {}, "cut.npy: expected numbers in numpy's format"),
        ("objects.npy", {}, "objects.npy: expected numbers in numpy's format"),
        ("text.npz", {}, "text.npz: expected numbers in numpy's format"),
        (
            "zip.npy",
            {},
            "zip.npy: expected numbers in numpy's format, found a zip file; "
            "the name of a zip file of arrays ends in .npz",
        ),
        ("names.npz", {}, "expected an array named x, images or data, found foo"),
        ("missing.npy", {}, "missing.npy: expected numbers"),
        (
            "huge.npy",
            {},
            r"huge.npy: expected numbers in numpy's format, found an array of 4000000000000 bytes, for \d+",
        ),
        (
            "huge.npz",
            {},
            r"huge.npz: expected numbers in numpy's format, found an array of 4000000000000 bytes, for \d+",
        ),
        ("token.npy", {}, "token.npy: expected numbers in numpy's format"),
        ("zlib.npz", {}, "zlib.npz: expected numbers in numpy's format"),
        ("fifo.npy", {}, "fifo.npy: expected a file, found a FIFO"),
        ("pipes", {}, "02.png: expected a file, found a FIFO"),
        ("devices", {}, "02.png: expected a file, found a device"),
        ("bomb", {}, r"00.png: expected an image, found a damaged file .Image size .900000000 pixels. exceeds limit"),
        ("checksum", {}, "01.png: expected an image, found a damaged file"),
    ],
)
def test_bad_data_are_refused(tmp_path, name, options, message):
    bad(tmp_path)
    path = tmp_path / name if name and ((tmp_path / name).exists() or "." in name) else name
    with pytest.raises((ValueError, files.StorageError), match=message) as refused:
        load(path, **options)
    assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize("error", [MemoryError, AssertionError, zlib.error("bad"), RuntimeError("encrypted")])
def test_whatever_a_decoder_raises_is_one_line(tmp_path, monkeypatch, error):
    def fails(*args, **kwargs):
        raise error

    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    save_images(tmp_path / "images", 2)
    monkeypatch.setattr(np, "load", fails)
    monkeypatch.setattr(Image.Image, "load", fails)
    for name, message in (("x.npy", "x.npy: expected numbers in"), ("images", "00.png: expected an image")):
        with pytest.raises(ValueError, match=message) as refused:
            load(tmp_path / name)
        assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize("make", [lambda x: x, TensorDataset, lambda x: DataLoader(TensorDataset(x), batch_size=4)])
def test_bytes_are_grey_levels_wherever_they_come_from(make):
    x = torch.randint(0, 256, (9, 1, 2, 3), dtype=torch.uint8)
    torch.testing.assert_close(torch.cat([block for (block,) in blocks(make(x), 5)]), x / 255)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(0, 6), "expected data, found none"),
        (DataLoader(TensorDataset(torch.zeros(0, 6))), "expected data, found none"),
        (torch.zeros(3, 7), r"expected shape \(N, 6\), found \(3, 7\)"),
        (torch.full((3, 6), float("nan")), "expected finite values, found nan"),
        (torch.full((3, 6), 0.5), "binarise the data"),
        ("digits", r"expected data.load.*found 'digits'; read it by data.load\('digits'\)"),
        (torch.zeros(3, 6) + 1j, "x: expected real numbers, found torch.complex64"),
        (TensorDataset(torch.zeros(3, 6) + 1j), "x: expected real numbers, found torch.complex64"),
        (DataLoader(torch.zeros(3, 6) + 1j), "x: expected real numbers, found torch.complex64"),
        ({"x": torch.zeros(3, 6), "z": torch.zeros(3)}, "expected columns x, as the model's arguments, found also 'z'"),
        ([{"z": torch.zeros(6)}] * 3, "expected columns x, as the model's arguments, found also 'z'"),
        (DataLoader([{"z": torch.zeros(6)}] * 3), "expected columns x, as the model's arguments, found also 'z'"),
        ([("a", 0), ("b", 1)], "expected rows x, or .x, y., of numbers, found str"),
    ],
)
@pytest.mark.parametrize("ask", [pyrovae.evaluate, pyrovae.fit])
def test_wrong_data_are_refused_in_training_and_evaluation_alike(data, message, ask):
    with pytest.raises(ValueError, match=message):
        ask(pyrovae.VAE(6, 2), data)


def test_labels_are_numbers(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((3, 2)), y=np.array(list("abc")))
    with pytest.raises(ValueError, match="labels: expected numbers, found <U1"):
        load(tmp_path / "d.npz")
    with pytest.raises(ValueError, match="labels: expected numbers, found <U1"):
        from_arrays(np.zeros((3, 2)), np.array(list("abc")))


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4", ">u2"])
def test_labels_are_integers_of_any_kind(tmp_path, dtype):
    np.savez(tmp_path / "d.npz", x=np.arange(10.0).reshape(5, 2), y=np.array([3, 0, 2, 1, 100]).astype(dtype))
    splits = load(tmp_path / "d.npz", valid=0, test=0)
    assert splits.num_classes == 101
    rows = (splits.train[:][:, 0] / 2).long()
    assert splits.train.y.tolist() == torch.tensor([3, 0, 2, 1, 100])[rows].tolist()
    assert known(splits.train.y).all()


def test_labels_beyond_int64_are_refused():
    with pytest.raises(ValueError, match=r"labels: expected numbers < 2\*\*63, found 18446744073709551615"):
        from_arrays(np.zeros((2, 2)), np.array([0, 2**64 - 1], np.uint64))


@pytest.mark.parametrize(
    ("mode", "message"),
    [("I;16", "expected 8 bits a channel, found mode 'I;16'"), ("RGBA", "expected opaque pixels, found transparent")],
)
def test_images_that_bytes_cannot_hold_are_refused(tmp_path, mode, message):
    for i in range(4):
        Image.new(mode, (4, 4)).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.zeros((0, 3)), {}, "expected data, .* found 0 rows"),
        (np.array([[1.0, np.inf]]), {}, "expected finite values, found inf"),
        (np.zeros(5), {}, r"expected numbers of shape \(N, D\)"),
        (np.zeros((5, 4, 4)) + 7.0, {}, "expects bytes or grey values in .0, 1., found values from 7 to 7"),
        (np.zeros((5, 3)), {"y": np.arange(4)}, "a label for each row or none, found 5 rows and 4 labels"),
        (np.zeros((5, 3)), {"y": np.array(3)}, "a label for each row or none, found 5 rows and a number as labels"),
        (np.zeros((5, 3)), {"num_classes": 3.5}, "num_classes: expected an integer >= 1, found 3.5"),
        (np.zeros((5, 3)), {"valid": "0.1"}, "valid: expected a finite number >= 0, found '0.1'"),
        (np.zeros((5, 3)), {"test": None}, "test: expected a finite number >= 0, found None"),
        (
            np.zeros((5, 3)),
            {"y": np.arange(5), "num_classes": 4},
            "expected labels from 0 to 3, or -1 where missing, found 0 to 4",
        ),
        (np.zeros((5, 3)), {"y": np.arange(5) - 2}, "expected labels from 0 to 2, or -1 where missing, found -2 to 2"),
    ],
)
def test_bad_arrays_are_refused(x, options, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(x, **options)


def table(column):
    """A table whose column 1 this is, with an entry missing."""
    x = np.stack([np.arange(60.0), column, np.ones(60)], 1)
    x[3] = np.nan
    return x


@pytest.mark.parametrize(
    "column",
    [1.7e9 + np.arange(60), 8.5 + 1e-6 * np.arange(60), 1e-60 * np.arange(60), 1e60 * np.arange(60)],
)
def test_a_column_that_float32_rounds_away_is_refused(tmp_path, column):
    message = (
        "column 1: expected values that float32 can distinguish, found a mean of .* is lost; subtract its mean, or"
    )
    np.save(tmp_path / "x.npy", table(column))
    for ask in (lambda: from_arrays(table(column)), lambda: load(tmp_path / "x.npy")):
        with pytest.raises(ValueError, match=message):
            ask()
    with pytest.raises(ValueError, match="column 0"):
        from_arrays(1_700_000_000 + np.arange(60)[:, None])
    from_arrays(table((column - column.mean()) / column.std()))


@pytest.mark.parametrize(
    "column",
    [
        2000 + np.arange(60),
        np.full(60, 0.1),
        np.full(60, 1.7e9 + 1),
        np.linspace(0.1, 0.3, 60) / np.linspace(1, 3, 60),  # a constant, but for rounding errors
        1.7e9 + 1e6 * np.arange(60),
        np.where(np.arange(60) == 7, 1e9 + 1, 0),
        np.full(60, np.nan),
    ],
)
def test_a_column_that_float32_holds_is_data(column):
    x = table(column)
    found = from_arrays(x, valid=0, test=0).train.x
    assert torch.equal(found.nan_to_num(), torch.from_numpy(x).float().nan_to_num()[split_rows(60, {})["train"]])


def test_rows_that_are_read_later_may_be_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "RESIDENT_BYTES", 1)
    np.save(tmp_path / "x.npy", np.concatenate([1 + 1e-9 * np.arange(20), np.arange(20)])[:, None])
    lazy = sources.arrays(tmp_path / "x.npy")[0][0]
    assert lazy[torch.arange(20)].unique().tolist() == [1.0]


@pytest.mark.parametrize("valid", [7, 7.0])
def test_a_count_may_come_as_a_float_from_the_command_line(valid):
    assert len(load("digits", valid=valid).valid) == 7


def test_a_test_part_that_does_not_fit_is_refused(tmp_path):
    for name, x in {
        "grey": np.full((3, 4, 4), 9.0),
        "size": np.zeros((3, 5, 5)),
        "nan": np.full((3, 4, 4), np.nan),
    }.items():
        np.savez(tmp_path / f"{name}.npz", x_train=np.zeros((9, 4, 4)), x_test=x)
        with pytest.raises(ValueError, match="found"):
            load(tmp_path / f"{name}.npz", valid=0)


def test_evaluation_of_a_dynamic_split_is_reproducible(digits):
    vae = pyrovae.VAE(digits.event_shape, 2)
    state = torch.get_rng_state()
    assert pyrovae.evaluate(vae, digits.train, 2) == pyrovae.evaluate(vae, digits.train, 2)
    assert torch.equal(state, torch.get_rng_state())


# ---- labels


@pytest.mark.parametrize(
    ("y", "there"),
    [
        (torch.tensor([0, -1, 3]), [True, False, True]),
        (torch.tensor([0, -2, 3]), [True, True, True]),  # no class, but not missing: whoever takes labels refuses it
        (torch.tensor([0, 255], dtype=torch.uint8), [True, True]),
        (torch.tensor([True, False]), [True, True]),
        (torch.tensor([0.0, torch.nan, -1.0, torch.inf]), [True, False, True, True]),
        (torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]), [True, False]),
        (torch.tensor([[0, 1], [-1, 1], [-1, -1]]), [True, False, False]),
    ],
)
def test_missing_labels_are_minus_one_or_nan(y, there):
    assert known(y).tolist() == there


@pytest.mark.parametrize("rows", [2, 4])
def test_as_many_labels_as_rows(rows):
    with pytest.raises(ValueError, match=f"y: expected a label for each of 3 rows, found {rows}"):
        Split(torch.zeros(3, 2), torch.zeros(rows))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: Split(x.numpy()), r"x: expected a tensor, as torch.as_tensor\(x\) is, found ndarray"),
        (lambda x: Split(x.tolist()), r"x: expected a tensor, as torch.as_tensor\(x\) is, found list"),
        (lambda x: Split(None), "x: expected a tensor, .* found NoneType"),
        (lambda x: Split(x, np.arange(3)), r"y: expected a tensor, as torch.as_tensor\(y\) is, found ndarray"),
        (lambda x: Split(x, binarize="fix"), "unknown binarize 'fix'; did you mean 'fixed'"),
        (lambda x: Split(x, binarize=None), "unknown binarize None"),
        (lambda x: Splits("a", x), r"train: expected a Split, found Tensor; Split\(train\) is one"),
        (lambda x: Splits("a", Split(x), x), r"valid: expected a Split, found Tensor; Split\(valid\) is one"),
        (lambda x: Splits("a", Split(x), test=DataLoader(x)), "test: expected a Split, found DataLoader$"),
        (lambda x: Splits("a", Split(x), num_classes=3.5), "num_classes: expected an integer >= 1, found 3.5"),
        (lambda x: Split(x, torch.zeros(3) * 1j), "y: expected real numbers, found torch.complex64"),
        (lambda x: Splits("a", None), "train: expected a Split, found NoneType"),
    ],
)
def test_parts_that_cannot_be_meant_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(torch.zeros(3, 2))


@pytest.mark.parametrize("binarize", ["dynamic", "fixed", "threshold", "dequantize"])
@pytest.mark.parametrize("x", [torch.tensor([[0.5, 1.5], [-0.25, 1.0]]), torch.tensor([[0, 1], [2, 0]])])
@pytest.mark.parametrize("read", [lambda split: split[:], lambda split: next(blocks(split, 2))])
def test_what_is_no_grey_level_is_refused_where_it_is_read(x, binarize, read):
    message = rf"x: binarize='{binarize}' expects bytes or grey values in .0, 1., found values from {x.min():g} to "
    with pytest.raises(ValueError, match=message):
        read(Split(x, binarize=binarize))


def labelled_data(x, y):
    return {
        "split": Split(x, y),
        "dataset": TensorDataset(x, y),
        "pairs": [(a, b) for a, b in zip(x, y.tolist(), strict=True)],
        "loader": DataLoader(TensorDataset(x, y), batch_size=7),
        "loader of lists": DataLoader(list(zip(x, y, strict=True)), batch_size=5),
    }


@pytest.mark.parametrize("source", labelled_data(torch.zeros(2, 1), torch.zeros(2)))
@pytest.mark.parametrize("size", [4, 30])
def test_labels_come_with_their_rows(source, size):
    x, y = torch.arange(23.0)[:, None], torch.arange(23) - 1
    data = labelled_data(x, y)[source]
    found = list(blocks(data, size, LABELS))
    assert [len(block) for block, _ in found[:-1]] == [size] * (23 // size if size < 23 else 0)
    for each in found:
        assert torch.equal(each[0][:, 0].long() - 1, each[1])
    assert torch.equal(torch.cat([labels for _, labels in found]), y)
    assert all(len(block) == 1 for block in blocks(data, size))
    (first, (x_there, y_there)), (second, (x_missing,)) = by_label(*next(iter(blocks(data, 30, LABELS))))
    assert (first.tolist(), second.tolist()) == ([*range(1, 23)], [0])
    assert torch.equal(x_there[:, 0].long() - 1, y_there)
    assert x_missing.tolist() == [[0.0]]


def test_labels_that_are_read_later_are_read_in_order():
    x, y = torch.arange(10.0)[:, None], torch.arange(10)
    split = as_split(TensorDataset(x, y))
    assert not isinstance(split.y, torch.Tensor)
    assert (split.y.shape, split.x.shape) == ((10,), (10, 1))
    order = torch.randperm(10)
    for rows, labels in batches(split, lambda n: order, 4, LABELS):
        assert torch.equal(rows[:, 0].long(), labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_labels_of_a_file_are_classes_whatever_their_type(tmp_path, dtype):
    x = np.arange(60, dtype=np.float32).reshape(30, 2)
    np.savez(tmp_path / "d.npz", x=x, y=(np.arange(30) % 3).astype(dtype))
    splits = with_labels(load(tmp_path / "d.npz", valid=0, test=6), 9)
    assert splits.num_classes == 3
    there = known(splits.train.y)
    assert there.sum() == 9
    assert torch.equal(splits.train.y[there], splits.train.x[there, 0].long() // 2 % 3)
    assert torch.equal(splits.test.y.long(), splits.test.x[:, 0].long() // 2 % 3)


def test_a_file_may_have_missing_labels(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((6, 2)), y=np.array([0, -1, 1, -1, 2, -1]))
    splits = load(tmp_path / "d.npz", valid=0, test=0)
    assert splits.num_classes == 3
    assert known(splits.train.y).tolist() == [True, False] * 3


@pytest.mark.parametrize("keep", [100, 0.1, 10, 700])
def test_kept_labels_are_as_many_of_each_class(digits, keep):
    y = with_labels(digits, keep, seed=3).train.y
    there, count = known(y), round(keep * 1258) if keep < 1 else keep
    assert there.sum() == count
    assert torch.equal(y[there], digits.train.y[there])
    counts, all_of_it = torch.bincount(y[there]), torch.bincount(digits.train.y)
    # As many of each as another, but for one, or all there are of a class.
    assert (counts >= torch.minimum(all_of_it, counts.max() - 1)).all()


def test_the_seed_chooses_the_labels_that_are_kept(digits):
    torch.manual_seed(torch.randint(99, ()).item())
    first, again, other = (with_labels(digits, 50, seed).train.y for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert known(digits.train.y).all()
    few = with_labels(with_labels(digits, 50, seed=1), 20, seed=5).train.y
    assert (known(few) <= known(first)).all()


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (9, r"labels: expected from 10 \(one of each class\) to 1258, found 9"),
        (1259, "labels: expected from 10 .* to 1258, found 1259"),
        (0.001, "labels: expected from 10 .* found 1"),
        (-1, "labels: expected a finite number >= 0, found -1"),
        (12.5, "labels: expected an integer >= 1, found 12.5"),
        ("30", "labels: expected a finite number >= 0, found '30'"),
    ],
)
def test_labels_that_cannot_be_kept_are_refused(digits, keep, message):
    with pytest.raises(ValueError, match=message):
        with_labels(digits, keep)
    with pytest.raises(ValueError, match="labels: expected data with classes, found none in arrays"):
        with_labels(from_arrays(np.zeros((20, 2))), 2)


def order_of(labelled, unlabelled, size, each=None):
    """An order of rows of which those with a label come last."""
    y = torch.cat([torch.full((unlabelled,), -1), torch.zeros(labelled, dtype=torch.long)])
    return Sampler(Split(torch.zeros(len(y), 1), y), True, size, each)


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "size", "each"),
    [(5, 40, 10, 3), (5, 40, 10, None), (5, 41, 10, 5), (1, 7, 4, 1), (30, 11, 10, 9), (9, 3, 8, 4), (300, 2, 8, None)],
)
def test_an_epoch_meets_every_row_and_each_batch_begins_with_labels(labelled, unlabelled, size, each):
    order = order_of(labelled, unlabelled, size, each)
    assert order.labelled_batch_size == (min(labelled, size // 2) if each is None else each)
    assert order.share == labelled / (labelled + unlabelled)
    rows = order(torch.randperm)
    batches = rows.split(size)
    assert len(batches) == len(order)
    for batch in batches:
        assert (batch[: order.labelled_batch_size] >= unlabelled).all()
        assert (batch[order.labelled_batch_size :] < unlabelled).all()
        assert len(batch) > order.labelled_batch_size
    assert all(len(batch) == size for batch in batches[:-1])
    counts = torch.bincount(rows, minlength=labelled + unlabelled)
    # Each round of a kind meets all of its rows: none is met twice more than another.
    assert counts[:unlabelled].max() - counts[:unlabelled].min() <= 1
    assert counts[unlabelled:].max() - counts[unlabelled:].min() <= 1
    assert counts.min() >= 1
    if unlabelled * order.labelled_batch_size >= labelled * (size - order.labelled_batch_size):
        assert (counts[:unlabelled] == 1).all()
    assert not torch.equal(rows, order(torch.randperm))


@pytest.mark.parametrize("each", [None, 0])
def test_where_labels_are_no_matter_rows_come_once(each):
    x = torch.zeros(11, 1)
    every, none = torch.arange(11) % 2, torch.full((11,), -1)
    for data, labels in ((Split(x), True), (Split(x, every), True), (Split(x, none), False), (Split(x), False)):
        order = Sampler(data, labels, 4, each)
        assert order.labelled_batch_size == (None if labels and data.y is not None else 0)
        assert order(torch.randperm).sort().values.tolist() == list(range(11))
        assert len(order) == 3
    loader = DataLoader(TensorDataset(x, every))
    assert Sampler(loader, True, 4).labelled_batch_size is None
    assert Sampler(loader, False, 4).labelled_batch_size == 0


def test_without_labelled_rows_in_a_batch_only_the_others_come():
    order = order_of(5, 11, 4, 0)
    assert (order.labelled_batch_size, len(order)) == (0, 3)
    assert order(torch.randperm).sort().values.tolist() == list(range(11))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: order_of(5, 9, 4, 4), "labelled_batch_size: expected at most 3 of the 4 rows of a batch .5 labels"),
        (lambda: order_of(2, 9, 8, 3), "labelled_batch_size: expected at most 2 of the 8 rows of a batch .2 labels"),
        (lambda: order_of(5, 9, 4, -1), "labelled_batch_size: expected an integer >= 0, found -1"),
        (lambda: order_of(5, 9, 4, 1.5), "labelled_batch_size: expected an integer >= 0, found 1.5"),
        (lambda: order_of(0, 9, 4), "y: expected some labels, found all 9 missing"),
        (lambda: order_of(5, 9, 1), "batch_size: expected at least 2 if some labels are missing, found 1"),
    ],
)
def test_batches_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_digest_is_of_the_rows_and_their_labels():
    """Not of how they are read, where the bytes are the same; and of some of them, where all would be read for it."""
    x, y = torch.arange(24, dtype=torch.uint8).reshape(6, 1, 2, 2), torch.arange(6)
    found = Split(x, y).sha256
    assert len(found) == 64
    assert found == Split(x.clone(), y.clone(), "dequantize").sha256
    other = x.clone()
    other[5, 0, 1, 1] += 1
    for changed in (Split(other, y), Split(x, y.flip(0)), Split(x), Split(x[:5], y[:5]), Split(x.float(), y)):
        assert changed.sha256 != found
    lazy = as_split([(row, label) for row, label in zip(x, y, strict=True)])
    assert lazy.sha256 == found


def test_rows_at_random_are_a_sample_and_the_same_for_all():
    few, more = at_random(10000, 20), at_random(10000, 200)
    assert torch.equal(more, at_random(10000, 200))
    assert set(few.tolist()) < set(more.tolist())
    assert (more.diff() > 0).all()
    assert abs(more.double().mean().item() - 4999.5) < 4 * 10000 / math.sqrt(12 * 200)
    assert at_random(5, 9).tolist() == [0, 1, 2, 3, 4]
    thirds = torch.stack([at_random(n, 30).ge(n // 2).double().mean() for n in range(300, 340)])
    assert thirds.mean().item() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(30 * 40))
    with pytest.raises(ValueError, match="rows: expected an integer >= 1, found 0"):
        at_random(5, 0)


def test_a_subset_has_one_draw_of_its_pixels():
    grey = Split(torch.full((50, 6), 0.5), torch.arange(50), "dynamic")
    one, other = subset(grey, 30, seed=3), subset(grey, 30, seed=4)
    assert torch.equal(one.x, subset(grey, 30, seed=3).x)
    assert torch.equal(one.y, other.y)
    assert 0.3 < (one.x != other.x).double().mean() < 0.7
