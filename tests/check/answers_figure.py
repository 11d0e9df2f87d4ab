"""Lesson 5: the figure of all units."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from einops import rearrange
from matplotlib.colors import CenteredNorm, LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from mpl_toolkits.axes_grid1 import ImageGrid

import mixer_lite as ml
from tests.check.zoo import right, wrong

matplotlib.use("Agg")


def sheet(filters, columns=3, title="units", pictures=None, **look):
    """Each unit in axes of its own, and whatever a learner may have changed."""
    limit = float(filters.abs().max())
    look = dict(cmap="RdBu_r", vmin=-limit, vmax=limit) | look
    figure, axes = plt.subplots(-(-len(filters) // columns), columns)
    for ax in axes.flat:
        ax.axis("off")
    for ax, picture in zip(axes.flat, filters if pictures is None else pictures, strict=False):
        ax.imshow(picture, **look)
    figure.suptitle(title)
    return figure


def montage(filters, columns=3, gap=1, fill=float("nan")):
    n, gh, gw = filters.shape
    rows = -(-n // columns)
    big = np.full((rows * (gh + gap) - gap, columns * (gw + gap) - gap), fill)
    for k, f in enumerate(filters):
        y, x = k // columns * (gh + gap), k % columns * (gw + gap)
        big[y : y + gh, x : x + gw] = f
    return big


@right("filter_figure")
def draw_with_subplots(filters):
    limit = filters.abs().max()
    fig, axes = plt.subplots(2, 4, figsize=(8, 4), squeeze=False)
    for u, ax in enumerate(axes.ravel()):
        ax.set_axis_off()
        if u < len(filters):
            im = ax.imshow(filters[u], cmap="coolwarm", vmin=-limit, vmax=limit)
            ax.set_title(f"unit {u}", fontsize=7)
    fig.colorbar(im, ax=axes)
    return fig


@right("filter_figure")
def draw_without_pyplot(filters):
    fig = Figure(layout="constrained")
    top = float(filters.abs().max())
    for u, f in enumerate(filters.numpy()):
        ax = fig.add_subplot(3, 3, u + 1, title=str(u))
        ax.matshow(f / top, cmap="PuOr", norm=CenteredNorm(halfrange=0.8))
    return fig


@right("filter_figure")
def draw_one_large_image(filters):
    big = montage(filters.double().numpy())
    limit = np.nanmax(np.abs(big))
    plt.figure()
    plt.imshow(big, cmap="seismic", vmin=-limit, vmax=limit, interpolation="nearest")
    plt.title("What the units read")
    plt.colorbar()
    return plt.gcf()


@right("filter_figure")
def draw_with_meshes(filters):
    limit = filters.abs().max().item()
    fig, axes = plt.subplots(1, len(filters), figsize=(12, 2))
    for ax, f in zip(axes, filters, strict=True):
        ax.pcolormesh(f, cmap="PRGn", vmin=-limit, vmax=limit)
        ax.invert_yaxis()
        ax.set_aspect("equal")
    axes[0].set_ylabel("row of the grid")
    return fig


@right("filter_figure")
def draw_meshes_from_the_top(filters):
    big = montage(filters.double().numpy(), columns=4)
    limit = float(filters.abs().max())
    fig, ax = plt.subplots()
    ax.pcolor(np.ma.masked_invalid(big[::-1]), cmap="RdYlBu", vmin=-limit, vmax=limit)
    ax.set(aspect="equal", title="all units")
    return fig


@right("filter_figure")
def draw_in_an_image_grid(filters):
    figure = plt.figure()
    grid = ImageGrid(figure, 111, (2, 4), axes_pad=0.1, cbar_mode="single")
    top = float(filters.abs().max())
    for ax, f in zip(grid, filters, strict=False):
        drawn = ax.imshow(f, cmap="bwr", vmin=-top, vmax=top)
    grid.cbar_axes[0].colorbar(drawn)
    figure.suptitle("all units, one scale")
    return figure


@right("filter_figure")
def draw_in_subfigures(filters):
    figure, top = plt.figure(layout="constrained"), float(filters.abs().max())
    for part, units in zip(figure.subfigures(2, 1), (filters[:4], filters[4:]), strict=True):
        for ax, f in zip(part.subplots(1, 4), units, strict=False):
            ax.imshow(f, cmap="BrBG", vmin=-top, vmax=top)
        part.suptitle("half of the units")
    return figure


@right("filter_figure")
def draw_by_extent(filters):
    n, gh, gw = filters.shape
    figure, ax = plt.subplots()
    for u, f in enumerate(filters):
        left = u * (gw + 1)
        shown = ax.imshow(f, cmap="PiYG", extent=(left, left + gw, gh, 0))
        shown.set_clim(-float(filters.abs().max()), float(filters.abs().max()))
        ax.text(left, -0.5, str(u))
    ax.set_xlim(-1, n * (gw + 1))
    return figure


@right("filter_figure")
def draw_a_row_of_maps(filters):
    row = rearrange(filters.double(), "u gh gw -> gh (u gw)")
    limit = float(row.abs().max())
    fig, ax = plt.subplots()
    ax.imshow(row.flip(0), origin="lower", cmap="RdBu", vmin=-limit, vmax=limit)
    ax.set_xlabel("units, side by side")
    return fig


@right("filter_figure")
def draw_with_the_course(filters):
    return ml.figures.plot_token_filters(filters, title="units")


@right("filter_figure")
def draw_with_own_colours(filters):
    colours = LinearSegmentedColormap.from_list("mine", ["navy", "white", "darkgreen"])
    return sheet(filters, columns=2, cmap=colours)


@wrong("filter_figure", "raw matrix", "a unit a line")
def draw_the_matrix(filters):
    fig, ax = plt.subplots()
    ax.imshow(filters.flatten(1), cmap="RdBu", vmin=-3, vmax=3)
    ax.set_title("token mixing")
    return fig


@wrong("filter_figure", "not folded", "a line of")
def draw_lines(filters):
    return sheet(filters, pictures=[f.reshape(1, -1) for f in filters])


@wrong("filter_figure", "min-max scaling", "vmin=-limit", "zero is drawn at")
def draw_with_default_limits(filters):
    return sheet(filters, vmin=None, vmax=None)


@wrong("filter_figure", "min-max scaling", "its own smallest")
def draw_normalised_to_0_1(filters):
    low, high = (f(filters, dim=(1, 2), keepdim=True) for f in (torch.amin, torch.amax))
    return sheet(filters, pictures=(filters - low) / (high - low), vmin=0, vmax=1)


@wrong("filter_figure", "each on its own scale", "one limit for all")
def draw_each_to_its_own_limit(filters):
    fig, axes = plt.subplots(2, 4)
    for ax, f in zip(axes.flat, filters, strict=False):
        ax.imshow(f, cmap="bwr", vmin=-f.abs().max(), vmax=f.abs().max())
    fig.suptitle("each unit")
    return fig


@wrong("filter_figure", "each on its own scale", "a weak unit")
def draw_divided_by_norms(filters):
    return sheet(filters, pictures=filters / filters.flatten(1).norm(dim=1)[:, None, None])


@wrong("filter_figure", "map not diverging", "viridis", "where zero is")
def draw_in_viridis(filters):
    return sheet(filters, cmap="viridis")


@wrong("filter_figure", "map not diverging", "gray")
def draw_in_grey(filters):
    return sheet(filters, cmap="gray")


@wrong("filter_figure", "map not diverging", "jet")
def draw_in_rainbow(filters):
    return sheet(filters, cmap="jet")


@wrong("filter_figure", "transposed", "rows run where columns")
def draw_transposed(filters):
    return sheet(filters, pictures=filters.transpose(1, 2))


@wrong("filter_figure", "reshaped", "reshape")
def draw_reshaped(filters):
    return sheet(filters, pictures=filters.reshape(len(filters), *filters.shape[:0:-1]))


@wrong("filter_figure", "upside down", "origin='lower'")
def draw_with_origin_below(filters):
    return sheet(filters, origin="lower")


@wrong("filter_figure", "upside down", "pcolormesh")
def draw_meshes_as_they_come(filters):
    limit = filters.abs().max().item()
    fig, axes = plt.subplots(3, 3)
    for ax, f in zip(axes.flat, filters, strict=False):
        ax.pcolormesh(f, cmap="RdBu_r", vmin=-limit, vmax=limit)
        ax.set_aspect("equal")
        ax.set_title("unit")
    return fig


@wrong("filter_figure", "units missing", "not in your figure")
def draw_the_first_four(filters):
    return sheet(filters[:4], columns=2)


@wrong("filter_figure", "signs lost", "absolute values")
def draw_magnitudes(filters):
    return sheet(filters, pictures=filters.abs())


@wrong("filter_figure", "limits not symmetric", "zero is drawn at")
def draw_between_the_extremes(filters):
    return sheet(filters, vmin=filters.min(), vmax=filters.max())


@wrong("filter_figure", "limits not symmetric", "one sign looks stronger")
def draw_with_two_slopes(filters):
    norm = TwoSlopeNorm(0, float(filters.min()), float(filters.max()))
    return sheet(filters, norm=norm, vmin=None, vmax=None)


@wrong("filter_figure", "limits not symmetric", "vmin=-limit")
def draw_large_image_with_defaults(filters):
    figure, ax = plt.subplots()
    ax.imshow(montage(filters.numpy(), fill=0.0), cmap="RdBu_r")
    ax.set_title("all units")
    return figure


@wrong("filter_figure", "smoothed", "interpolation='nearest'")
def draw_smoothly(filters):
    return sheet(filters, interpolation="bicubic")


@wrong("filter_figure", "stretched", "aspect='equal'")
def draw_stretched(filters):
    limit = float(filters.abs().max())
    fig, axes = plt.subplots(1, len(filters), figsize=(9, 6))
    for ax, f in zip(axes, filters, strict=True):
        ax.imshow(f, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    fig.suptitle("units")
    return fig


@wrong("filter_figure", "wrong order", "in reading order")
def draw_strongest_first(filters):
    return sheet(filters[filters.flatten(1).norm(dim=1).argsort(descending=True)])


@wrong("filter_figure", "down the columns", "axes.flat")
def draw_down_the_columns(filters):
    limit = float(filters.abs().max())
    fig, axes = plt.subplots(4, 2)
    for u, f in enumerate(filters):
        axes[u % 4, u // 4].imshow(f, cmap="RdBu_r", vmin=-limit, vmax=limit)
    fig.suptitle("units")
    return fig


@wrong("filter_figure", "on top of each other", "only the last one")
def draw_all_in_one_place(filters):
    limit = filters.abs().max()
    plt.figure()
    for f in filters:
        plt.imshow(f, cmap="RdBu_r", vmin=-limit, vmax=limit)
    plt.title("units")
    return plt.gcf()


@wrong("filter_figure", "cut off", "xlim")
def draw_all_but_see_one(filters):
    figure = draw_by_extent(filters)
    figure.axes[0].set_xlim(0, filters.shape[2])
    return figure


@wrong("filter_figure", "mirrored", "column 0")
def draw_from_right_to_left(filters):
    figure = sheet(filters)
    for ax in figure.axes:
        ax.invert_xaxis()
    return figure


@wrong("filter_figure", "no words", "title")
def draw_without_words(filters):
    return sheet(filters, title="")


@wrong("filter_figure", "returns nothing", "picture itself is right", "return figure")
def draw_and_show(filters):
    sheet(filters)
    plt.show()


@wrong("filter_figure", "not a figure", "return the figure alone")
def draw_and_return_axes(filters):
    return sheet(filters).axes


@wrong("filter_figure", "not a figure", "not a Tensor")
def draw_nothing(filters):
    return filters


@wrong("filter_figure", "nothing drawn", "imshow")
def draw_curves(filters):
    fig, ax = plt.subplots()
    ax.plot(filters.flatten(1).T)
    return fig


@wrong("filter_figure", "colours, not numbers", "vmin and vmax")
def draw_ready_made_colours(filters):
    shown = filters.double() / filters.abs().max() / 2 + 0.5
    return sheet(filters, pictures=[plt.get_cmap("RdBu_r")(f) for f in shown])


@wrong("filter_figure", "washed out", "nearly white")
def draw_with_huge_limits(filters):
    return sheet(filters, vmin=-100, vmax=100)


@wrong("filter_figure", "sign turned", "opposite sign")
def draw_negated(filters):
    return sheet(filters, pictures=-filters)


@wrong("filter_figure", "not the weights", "no unit can be found")
def draw_ranks(filters):
    ranks = filters.flatten().argsort().argsort().reshape(filters.shape)
    return sheet(filters, pictures=ranks)
