"""Figures are made of arrays alone; what is drawn is what was given."""

import re
from functools import partial

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.lines import AxLine
from PIL import Image

from pyrovae import plots, runs
from pyrovae.__main__ import main

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("channels", [1, 3])
def test_tile_puts_each_image_in_its_place(channels):
    images = RNG.random((5, channels, 4, 6))
    sheet = plots.tile(images, columns=3)
    assert sheet.shape == (2 * 5 - 1, 3 * 7 - 1, 3)
    np.testing.assert_allclose(sheet[5:9, 7:13], images[4].transpose(1, 2, 0).repeat(3 // channels, -1))
    assert (sheet[4] == 1).all()
    assert (sheet[5:, 14:] == 1).all()


def test_tile_clips():
    assert plots.tile(np.array([[[[-3.0, 9.0]]]]), 1).tolist() == [[[0, 0, 0], [1, 1, 1]]]


def test_loss_curves_draw_the_records():
    records = [{"epoch": i, "loss": 10.0 / i, "valid_loss": 11.0 / i, "beta": 1.0} for i in range(1, 6)]
    axes = plots.loss_curves(records).axes
    assert len(axes) == 1
    assert axes[0].get_ylabel() == "loss (nats per datum)"
    np.testing.assert_allclose(axes[0].lines[1].get_ydata(), [11.0 / i for i in range(1, 6)])


def test_a_steep_beginning_does_not_flatten_the_rest():
    records = [{"epoch": i, "loss": 100.0 + 900.0 * (i < 3) - i, "beta": 1.0} for i in range(1, 31)]
    low, high = plots.loss_curves(records).axes[0].get_ylim()
    assert 65 < low < 70
    assert 96 < high < 100


def test_training_curves_have_a_line_a_run_and_a_colour_a_label():
    fall = [100.0 / i for i in range(1, 31)]
    runs = {"a": [(range(1, 31), fall), (range(1, 31), fall)], "b": [(range(1, 21), [50.0] + [20.0] * 19)]}
    (axes,) = plots.training_curves(runs, first=7).axes
    assert [line.get_color() for line in axes.lines] == [plots.COLOURS[7]] * 2 + [plots.COLOURS[0]]
    assert [line.get_linestyle() for line in axes.lines] == ["-", "-", "--"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), fall)
    low, high = axes.get_ylim()  # a tenth of each is over
    assert low == pytest.approx(100 / 30 - 0.05 * (25 - 100 / 30))
    assert high == pytest.approx(25 + 0.05 * (25 - 100 / 30))


@pytest.mark.parametrize("draw", [partial(plots.curves, below=True), plots.rings])
def test_labels_below_the_axes_cover_no_point(draw):
    figure = draw({f"a line of many words, {i}": ([1, 2, 3], [i, i + 1, i]) for i in range(6)}, "steps", "nats")
    figure.draw(renderer := FigureCanvasAgg(figure).get_renderer())
    box, axes = figure.legends[0].get_window_extent(renderer), figure.axes[0].get_tightbbox(renderer)
    assert 0 <= box.y0 < box.y1 <= axes.y0
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width == 3.6 * figure.dpi
    assert axes.height > figure.bbox.height / 2


def test_rings_of_one_place_are_all_seen_and_no_line_joins_them():
    axes = plots.rings({"dots": ([1, 10], [2, 3]), "rings": ([10, 100], [3, 4])}, log="x").axes[0]
    dots, rings = axes.lines
    np.testing.assert_allclose(rings.get_xydata(), [[10, 3], [100, 4]])
    assert (dots.get_linestyle(), rings.get_linestyle(), axes.get_xscale()) == ("None", "None", "log")
    hole = rings.get_markersize() - rings.get_markeredgewidth()
    assert hole > dots.get_markersize() + dots.get_markeredgewidth()
    assert (dots.get_markerfacecolor(), rings.get_markerfacecolor()) == (plots.COLOURS[0], "none")


def test_intervals_are_a_margin_or_two_standard_errors_to_either_side():
    numbers = {"a": {"value": 0.0, "standard_error": float("nan")}, "b": {"value": 3.0, "standard_error": 0.25}}
    numbers["c"] = numbers["b"] | {"margin": 2.0}
    (axes,) = plots.intervals(numbers, "nats", first=1).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    ends = [bars.get_segments()[0][:, 0].tolist() for bars in axes.collections]
    assert ends == [[0, 0], [2.5, 3.5], [1, 5]]
    assert axes.lines[0].get_color() == plots.COLOURS[1]


def test_losses_of_unlike_data_say_of_which():
    records = [{"epoch": i, "loss": 1.0, "valid_loss": 3.0, "beta": 1.0} for i in range(1, 3)]
    axes = plots.loss_curves(records, (", some labels missing", ", all labels known")).axes[0]
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert shown == ["training, some labels missing", "validation, all labels known"]


def test_a_changing_beta_is_drawn_below():
    records = [{"epoch": i, "loss": 1.0, "beta": i / 5} for i in range(1, 6)]
    figure = plots.loss_curves(records)
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), [0.2, 0.4, 0.6, 0.8, 1.0])


def test_pca_of_the_codes_says_how_much_it_shows():
    codes = RNG.normal(size=(500, 4)) * [3, 1, 0, 0]
    figure = plots.latent_pca(codes, RNG.integers(0, 3, 500))
    share = int(figure.axes[0].get_xlabel().split("(")[1].split("%")[0])
    assert share == pytest.approx(90, abs=3)
    assert len(figure.axes[0].collections) == 3


def test_the_axes_of_codes_name_their_site():
    codes, decoded = RNG.normal(size=(9, 2)), RNG.random((3, 3, 1, 4, 4))
    sheet, dots = plots.latent_plane(codes, None, decoded).axes
    assert (sheet.get_xlabel(), dots.get_ylabel()) == ("$z_{1}$", "$z_{2}$")
    assert sheet.images[0].get_array().shape == (14, 14, 3)  # a pixel between the tiles
    assert plots.latent_plane(codes, None, None, site="z2").axes[0].get_xlabel() == "$z_{2,1}$"
    assert plots.latent_plane(codes, None, None, site="hid").axes[0].get_xlabel() == r"$\mathrm{hid}_{1}$"
    assert "of $z_{2}$" in plots.latent_pca(codes, None, "z2").axes[0].get_xlabel()


def test_the_plane_of_a_constant_encoder_is_drawn():
    assert plots.latent_pca(np.zeros((5, 3)), None).axes[0].collections[0].get_offsets().shape == (5, 2)


@pytest.mark.parametrize("labels", [None, np.array([4])])
def test_one_code_is_drawn_at_its_mean(labels):
    axes = plots.latent_pca(np.array([[3.0, -1.0, 2.0]], np.float32), labels).axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[0, 0]]
    assert axes.get_ylabel() == "principal component 2 of $z$ (0% of variance)"


@pytest.mark.parametrize(("rows", "panels", "images"), [(10, 10, 1), (10, 3, 8), (2, 6, 2), (6, 2, 1)])
def test_no_title_of_a_table_is_cut_or_meets_another(rows, panels, images):
    titles = [f"$E[x|z]$ from {i}$ \\sim p$" for i in range(panels)]
    names = [f"a class named {i}" for i in range(rows)]
    figure = plots.named_table(names, {title: RNG.random((rows, images, 1, 8, 8)) for title in titles})
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = [axes.title.get_window_extent(renderer) for axes in figure.axes]
    edges = [0, *(edge for box in boxes for edge in (box.x0, box.x1)), figure.bbox.width]
    assert edges == sorted(edges)
    assert all(0 < box.y0 < box.y1 < figure.bbox.height for box in boxes)
    images = [axes.images[0].get_window_extent(renderer) for axes in figure.axes]
    beside = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert all(0 < box.x0 < box.x1 < images[0].x0 for box in beside)
    assert max(box.width for box in images) == pytest.approx(min(box.width for box in images), rel=0.02)


def test_program_graph_has_an_arrow_for_each_edge():
    figure = plots.program_graph({"z": 0, "x": 1}, [("z", "x")], [("x", "z")], ["x"], "N")
    kinds = [type(patch).__name__ for patch in figure.axes[0].patches]
    assert kinds.count("FancyArrowPatch") == 2  # one generates, one infers
    assert kinds.count("Circle") == 2


def test_k_hat_is_drawn_by_its_bands():
    k = np.array([-0.2, 0.4, 0.6, 0.9, 1.5, np.inf, -np.inf])
    axes = plots.pareto_k(k).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["good (43%)", "usable (14%)", "unusable (43%)"]
    assert [len(dots.get_offsets()) for dots in axes.collections] == [3, 1, 3, 1, 1]
    np.testing.assert_allclose(axes.collections[0].get_offsets()[:2], [[0, -0.2], [1, 0.4]])
    assert [line.get_ydata()[0] for line in axes.lines] == [0.5, 0.7]
    few = plots.pareto_k(k, 0.41).axes[0]
    assert [text.get_text() for text in few.get_legend().get_texts()][1:] == ["usable (0%)", "unusable (57%)"]
    assert [line.get_ydata()[0] for line in few.lines] == [0.41, 0.41]
    assert axes.get_ylim()[1] > 1.6


def test_rank_histograms_have_a_band_that_holds_uniform_bins():
    counts = np.random.default_rng(1).multinomial(2000, [0.05] * 20, size=8)
    counts[0, 0] += 150  # the first latent sets the scale of all
    figure = plots.rank_histograms({"z": counts, "h": counts[:1] * 0 + 100})
    assert len([axes for axes in figure.axes if axes.patches]) == 9
    assert figure.axes[8].get_title() == "h 1"
    assert figure.axes[0].get_ylim()[1] > counts.max()
    assert (figure.get_supylabel(), figure.get_suptitle()) == ("data", "grey band: 99 % of uniform bins")
    named = [axes.xaxis.get_tick_params()["labelbottom"] for axes in figure.axes[:9]]
    assert named == [False] * 4 + [True] * 5  # the lowest of every column
    band, *bars = figure.axes[1].patches
    assert band.zorder < bars[0].zorder
    np.testing.assert_allclose([bar.get_height() for bar in bars], counts[1])
    low, high = band.get_extents().transformed(figure.axes[1].transData.inverted()).get_points()[:, 1]
    assert low + high == pytest.approx(200)
    assert ((counts > low) & (counts < high)).mean() == pytest.approx(0.99, abs=0.02)


def test_marginals_hold_a_single_row_and_leave_out_outliers():
    alone = plots.marginals(np.array([[1.0]]), np.array([[3.0]])).axes[0]
    np.testing.assert_allclose(alone.get_xlim(), [1 - 0.1, 3 + 0.1])
    data = np.append(np.linspace(0, 1, 999), 1e6)[:, None]
    assert plots.marginals(data, data).axes[0].get_xlim()[1] == pytest.approx(1.05, abs=0.02)


@pytest.mark.parametrize(
    ("shape", "latent_dim", "names"),
    [
        pytest.param(
            (30, 7, 5),
            2,
            {"samples", "reconstructions", "variations", "interpolation", "latents", "loss", "program"},
            marks=pytest.mark.slow,
        ),
        ((30, 3, 8, 6), 3, {"samples", "reconstructions", "variations", "interpolation", "latents", "loss", "program"}),
        ((30, 5), 1, {"samples", "reconstructions", "latents", "loss", "program"}),
        ((5, 4, 4), 3, {"samples", "reconstructions", "variations", "interpolation", "latents", "loss", "program"}),
        pytest.param((5, 4), 3, {"samples", "reconstructions", "latents", "loss", "program"}, marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_data_has_its_figures(tmp_path, monkeypatch, shape, latent_dim, names):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", RNG.random(shape).astype(np.float32))
    options = ["--latent-dim", str(latent_dim), "--likelihood", "normal(scale=0.3)", "--binarize", "none"]
    options += ["--compile", "no"]
    assert (
        main(
            [
                "train",
                "--data",
                "x.npy",
                "--name",
                "a",
                "--epochs",
                "1",
                "--batch-size",
                "2",
                "--particles",
                "2",
                *options,
            ]
        )
        == 0
    )
    written = {path.stem: path for path in runs.Path("runs/a/figures").iterdir()}
    assert set(written) == names
    for path in written.values():
        picture = np.asarray(Image.open(path).convert("L"), float)
        assert picture.shape[1] >= 300
        assert picture.std() > 5, f"{path.stem} is blank"


def test_curves_have_each_their_own_points_and_errors():
    lines = {"a": ([1, 10, 100], [3.0, 2.0, 1.0], [0.1, 0.2, 0.3]), "b": ([2, 20], [5.0, 6.0]), "c": ([4], [7.0], None)}
    axes = plots.curves(lines, "labels", "accuracy", log="x").axes[0]
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_xlabel()) == ("log", "linear", "labels")
    drawn = {each.get_label(): each for each in axes.containers}
    for label, (at, values, *_) in lines.items():
        np.testing.assert_allclose(drawn[label].lines[0].get_xydata(), np.stack([at, values], 1))
    assert [drawn[label].has_yerr for label in lines] == [True, False, False]
    (bars,) = drawn["a"].lines[2]
    np.testing.assert_allclose([each[:, 1] for each in bars.get_segments()], [[2.9, 3.1], [1.8, 2.2], [0.7, 1.3]])


def test_curves_are_logarithmic_where_asked():
    axes = plots.curves({"a": ([1, 2], [3, 4])}, log="xy").axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert plots.curves({"a": ([1, 2], [3, 4])}).axes[0].get_xscale() == "linear"


def test_frames_become_an_animation_and_the_middle_one_a_picture(tmp_path):
    shades = np.linspace(0, 1, 10)
    frames = [plots.image_grids({"": np.full((1, 1, 8, 8), shade)}, 1) for shade in shades]
    png, gif = plots.write_figures(tmp_path / "figures", {"fading": frames})
    with Image.open(gif) as moving:
        assert moving.n_frames == 10
        seen, held = [], []
        for number in range(10):
            moving.seek(number)
            seen.append(np.asarray(moving.convert("L"))[moving.height // 2, moving.width // 2] / 255)
            held.append(moving.info["duration"])
    np.testing.assert_allclose(seen, shades, atol=0.05)
    assert held[-1] > 10 * held[0]
    still = np.asarray(Image.open(png).convert("L")) / 255
    assert still[len(still) // 2, still.shape[1] // 2] == pytest.approx(shades[5], abs=0.01)


def test_a_few_coloured_dots_keep_their_colours_and_many_greys_have_none(tmp_path):
    colours = np.array([to_rgb(each) for each in plots.COLOURS[:6]])
    sheet = RNG.random((1, 1, 60, 60)).repeat(3, 1)
    sheet[0, :, 0, :6] = colours.T
    frames = [plots.image_sheet(each, 1) for each in (sheet, np.flip(sheet, 2))]
    _, gif = plots.write_figures(tmp_path / "figures", {"dots": frames})
    with Image.open(gif) as moving:
        assert moving.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        seen = np.asarray(moving.convert("RGB"))[-moving.width :] / 255  # two by two dots for each value
    np.testing.assert_allclose(seen[1, 1:12:2], colours, atol=0.06)
    np.testing.assert_allclose(seen[3::2, 1::2], sheet[0, :, 1:].transpose(1, 2, 0), atol=0.013)
    assert np.ptp(seen[3:], axis=-1).max() == 0


def test_a_sheet_shows_each_pixel_as_whole_ones():
    images = (np.arange(32).reshape(2, 1, 4, 4) % 2).astype(float)
    figure = plots.image_sheet(images, 2, "z")
    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    shown = np.asarray(canvas.buffer_rgba())[..., 0]
    scale = shown.shape[1] // 9
    assert shown.shape[1] == 9 * scale
    np.testing.assert_array_equal(shown[-4 * scale :: scale, ::scale] / 255, plots.tile(images, 2)[..., 0])


def test_a_frame_given_again_stays_longer(tmp_path):
    first, second, third = (plots.image_sheet(np.full((1, 1, 8, 8), shade), 1) for shade in (0.0, 0.5, 1.0))
    _, gif = plots.write_figures(tmp_path / "figures", {"slow": [first, first, first, second, third]})
    with Image.open(gif) as moving:
        held = []
        for number in range(moving.n_frames):
            moving.seek(number)
            held.append(moving.info["duration"])
    assert len(held) == 3
    assert held[0] == 3 * held[1]


def test_a_matrix_has_each_grid_beside_its_name():
    images = RNG.random((4, 1, 5, 5))
    rows = {"a": {"one": images, "two": 1 - images}, "b": {"three": images}}
    figure = plots.image_matrix(rows, 2, "epoch 1")
    assert [axes.get_title() for axes in figure.axes] == ["one", "two", "three"]
    np.testing.assert_allclose(figure.axes[1].images[0].get_array(), plots.tile(1 - images, 2))
    left, right, below = (axes.get_position() for axes in figure.axes)
    assert (left.y0, left.x0) == pytest.approx((right.y0, below.x0))
    assert left.x1 < right.x0
    assert below.y1 < left.y0
    assert [text.get_text() for text in figure.texts] == ["a", "b", "epoch 1"]


def test_frames_are_of_one_size(tmp_path):
    frames = [plots.image_grids({"": np.zeros((n, 1, 8, 8))}) for n in (1, 16)]
    with pytest.raises(ValueError, match="frames of one size"):
        plots.write_figures(tmp_path / "figures", {"growing": frames})
    assert not list((tmp_path / "figures").glob("*.gif"))


IMAGES, CODES = np.zeros((2, 1, 4, 4)), np.zeros((5, 2))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.loss_curves([]), "records: expected at least one, found none"),
        (lambda: plots.training_curves({}), "runs: expected at least one, found none"),
        (lambda: plots.training_curves({"a": []}), "runs: expected at least one, found none"),
        (lambda: plots.curves_apart({}), "lines: expected at least one, found none"),
        (lambda: plots.rate_distortion({}), "points: expected at least one, found none"),
        (lambda: plots.auroc_bars({}), "by_class: expected at least one, found none"),
        (lambda: plots.rows_of_dots({}, "x"), "series: expected at least one, found none"),
        (lambda: plots.gif([]), "frames: expected at least one, found none"),
        (lambda: plots.program_graph({}, [], [], [], 1), "levels: expected at least one, found none"),
        (lambda: plots.image_grids({}), "panels: expected at least one, found none"),
        (lambda: plots.image_rows({}), "panels: expected at least one, found none"),
        (lambda: plots.image_table({}), "panels: expected at least one, found none"),
        (lambda: plots.named_table([], {"": IMAGES[None]}), "names: expected at least one, found none"),
        (lambda: plots.image_matrix({}, 1), "panels: expected at least one, found none"),
        (lambda: plots.image_matrix({"a": {}}, 1), "panels: expected at least one, found none"),
        (lambda: plots.image_rows({"": IMAGES[:, 0]}), "expected shape (n, C, H, W) >= (1, 1, 1, 1), found (2, 4, 4)"),
        (lambda: plots.image_grids({"a": IMAGES, "b": IMAGES[:0]}), ", found (0, 1, 4, 4)"),
        (lambda: plots.image_rows({"": IMAGES[:0]}), ", found (0, 1, 4, 4)"),
        (lambda: plots.image_table({"": IMAGES}), "shape (n, m, C, H, W) >= (1, 1, 1, 1, 1), found (2, 1, 4, 4)"),
        (lambda: plots.image_sheet(IMAGES[:0], 2), ", found (0, 1, 4, 4)"),
        (lambda: plots.image_matrix({"a": {"b": IMAGES[0]}}, 1), ", found (1, 4, 4)"),
        (lambda: plots.tile(IMAGES[0, 0], 1), ", found (4, 4)"),
        (lambda: plots.rank_histograms({}), "counts: expected at least one, found none"),
        (lambda: plots.rank_histograms({"z": CODES[:, :0]}), "shape (latents, bins) >= (1, 1), found (5, 0)"),
        (lambda: plots.marginals(CODES[:0], CODES), "data: expected shape (N, D) >= (1, 1), found (0, 2)"),
        (lambda: plots.marginals(CODES, CODES[:0]), "samples: expected shape (N, D) >= (1, 2), found (0, 2)"),
        (lambda: plots.agreement(CODES[:0], CODES[:0]), "data: expected at least one, found none"),
        (lambda: plots.pareto_k(np.zeros(0)), "k: expected at least one, found none"),
        (lambda: plots.latent_pca(CODES[:0], None), "codes: expected shape (N, d) >= (1, 2), found (0, 2)"),
        (lambda: plots.latent_pca(CODES[:, :1], None), "codes: expected shape (N, d) >= (1, 2), found (5, 1)"),
        (lambda: plots.latent_pca(CODES, np.arange(4)), "labels: expected shape (5,) for as many codes, found (4,)"),
        (lambda: plots.latent_plane(CODES, np.arange(6), None), "expected shape (5,) for as many codes, found (6,)"),
        (lambda: plots.latent_plane(CODES[:0], None, None), "codes: expected shape (N, d) >= (1, 2), found (0, 2)"),
        (lambda: plots.latent_planes({}, np.zeros(5)), "of: expected at least one, found none"),
        (lambda: plots.maps({}, np.zeros(5)), "points: expected at least one, found none"),
        (lambda: plots.maps({"a": CODES}, np.zeros(4)), "labels: expected shape (5,) for as many codes, found (4,)"),
        (lambda: plots.colourings(CODES, {}), "by: expected at least one, found none"),
        (lambda: plots.posteriors(IMAGES[:0], CODES[0], CODES, {}), ", found (0, 1, 4, 4)"),
        (lambda: plots.posteriors(IMAGES, CODES[0], CODES, {}), "guides: expected at least one, found none"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        draw()


def test_an_animation_without_frames_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="none: expected at least one, found none"):
        plots.write_figures(tmp_path / "figures", {"all": plots.image_sheet(IMAGES, 2), "none": []})
    assert not (tmp_path / "figures").exists()


def test_along_the_lines_of_equal_elbo_rate_and_distortion_have_one_sum():
    points = {0.1: (9.0, 80.0), 1.0: (5.0, 82.0), 10.0: (1.0, 95.0)}
    figure = plots.rate_distortion(points, {"alone": (5.5, 81.0)})
    axes, dots = figure.axes[0], figure.axes[0].collections[0]
    np.testing.assert_allclose(dots.get_offsets(), list(points.values()))
    np.testing.assert_allclose(dots.get_array(), list(points))
    sums = [line.get_xy1()[1] for line in axes.lines if isinstance(line, AxLine)]
    assert {line.get_slope() for line in axes.lines if isinstance(line, AxLine)} == {-1}
    assert min(sums) <= 87 < 96 <= max(sums)


def test_maps_have_each_their_points_and_one_legend():
    points, classes = {"a": RNG.normal(size=(60, 2)), "b": RNG.normal(size=(60, 2))}, np.repeat([3, 5], 30)
    left, right = plots.maps(points, classes).axes
    for axes, each in zip((left, right), points.values(), strict=True):
        for number, label in enumerate((3, 5)):
            np.testing.assert_allclose(axes.collections[number].get_offsets(), each[classes == label])
            np.testing.assert_allclose(axes.texts[number].get_position(), np.median(each[classes == label], 0))
    assert left.get_legend() is None
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["3", "5"]


def test_planes_show_codes_where_they_are_decoded():
    codes, decoded = {"a": RNG.normal(size=(20, 2)), "b": RNG.normal(size=(20, 2))}, RNG.random((4, 4, 1, 3, 3))
    of = {title: (each, decoded) for title, each in codes.items()}
    sheets, dots = np.split(np.array(plots.latent_planes(of, np.zeros(20, int), 2, "u", "v").axes), 2)
    for sheet, below, each in zip(sheets, dots, codes.values(), strict=True):
        assert sheet.images[0].get_extent() == [-2, 2, -2, 2]
        assert (*below.get_xlim(), *below.get_ylim()) == (-2, 2, -2, 2)
        np.testing.assert_allclose(below.collections[0].get_offsets(), each)
    assert [sheet.get_title() for sheet in sheets] == ["a", "b"]
    alone = plots.latent_planes({"a": (codes["a"], decoded)}, np.zeros(20, int)).axes
    assert [axes.get_title() for axes in alone] == ["a", ""]


def test_dots_stand_at_their_values_and_the_line_at_their_mean():
    axes = plots.dots({"one": [1.0, 2.0, 6.0], "other": [4.0]}, "nats").axes[0]
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[0, 1], [0, 2], [0, 6]])
    assert axes.collections[1].get_segments()[0][:, 1].tolist() == [3, 3]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["one", "other"]


def test_rows_of_dots_have_a_row_a_label_and_a_colour_a_series():
    series = {"few": {"a": (0.2, 0.1), "b": (0.5, 0.0)}, "many": {"b": (0.9, 0.0), "a": (0.8, 0.2)}}
    (axes,) = plots.rows_of_dots(series, "accuracy").axes
    few, many = axes.containers
    np.testing.assert_allclose(few[0].get_xydata(), [[0.2, 0], [0.5, 1]])
    np.testing.assert_allclose(many[0].get_xydata(), [[0.8, 0], [0.9, 1]])
    np.testing.assert_allclose(many[2][0].get_segments()[0][:, 0], [0.6, 1.0])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert few[0].get_color() != many[0].get_color()


def test_a_table_of_images_is_as_wide_as_asked():
    images = {"": RNG.random((2, 9, 1, 8, 8))}
    narrow, wide = (plots.named_table(["a", "b"], images, inches).axes[0].get_position() for inches in (2, 6))
    sizes = [plots.named_table(["a", "b"], images, inches).get_size_inches()[0] for inches in (2, 6)]
    assert wide.width * sizes[1] == pytest.approx(3 * narrow.width * sizes[0])


def test_curves_apart_have_a_scale_each():
    figure = plots.curves_apart({"small": ([1, 2], [0.1, 0.2]), "large": ([1, 2], [300.0, 500.0])}, "epoch", "nats", 3)
    small, large, empty = figure.axes
    np.testing.assert_allclose(large.lines[0].get_ydata(), [300, 500])
    assert small.get_ylim()[1] < 1 < 100 < large.get_ylim()[0]
    assert not empty.axison


def test_posteriors_draw_each_density_over_that_of_its_datum():
    images, z = RNG.random((2, 1, 4, 4)), np.linspace(-6, 6, 121)
    q = np.stack([np.exp(-((z[None] - m) ** 2 + z[:, None] ** 2) / 2) for m in (0, 1)])
    axes = plots.posteriors(images, z, q**4, {"normal": (q, ["KL 0", "KL 1"])}).axes
    assert len(axes) == 4
    for m, panel in ((0, axes[1]), (1, axes[3])):
        half = panel.collections[1].get_paths()[-1].vertices
        np.testing.assert_allclose(np.hypot(half[:, 0] - m, half[:, 1]), np.sqrt(2 * np.log(2)), atol=0.02)
        wide = np.sqrt(2 * np.log(200))
        np.testing.assert_allclose([*panel.get_xlim()], [m - wide, m + wide], atol=0.11)


def test_labels_beside_the_axes_cover_no_line():
    lines = {f"line {i}": ([1, 2, 3], [i, i + 1, i]) for i in range(8)}
    figure = plots.curves(lines, beside=True)
    figure.draw(renderer := FigureCanvasAgg(figure).get_renderer())
    box, axes = figure.axes[0].get_legend().get_window_extent(renderer), figure.axes[0].get_window_extent(renderer)
    assert axes.x1 <= box.x0 < box.x1 <= figure.bbox.width


def test_a_name_of_two_lines_has_the_room_of_its_longer_one():
    panels = {"x": RNG.random((2, 3, 1, 8, 8))}
    one, two = (plots.named_table(["left", name], panels, 2.0) for name in ("a long name", "a long name\nof two"))
    assert one.get_figwidth() == pytest.approx(two.get_figwidth())
    assert plots.named_table(["left", "a long name of two"], panels, 2.0).get_figwidth() > two.get_figwidth() + 0.3
    assert plots.named_table(["left", "a long name"], panels, 3.0).get_figwidth() == pytest.approx(
        one.get_figwidth() + (3 - 2) * (3 * 9 - 1) / (3 * 9 - 1 + 0.4 * 8)
    )
