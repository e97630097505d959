from dynconv.report import plot


def test_a_plot_takes_the_colour_of_its_page() -> None:
    drawn = plot.draw("name", "a < b", lambda figure: figure.add_subplot().set_title("$x$"), 2, 1)

    assert "currentColor" in drawn.inline and plot.ink() not in drawn.inline
    assert 'aria-label="a &lt; b"' in drawn.inline and "$x$" in drawn.inline
    assert plot.ink() in drawn.svg
