from dynconv.data import shapes
from dynconv.page import samples


def test_drawings_are_those_of_classes_that_we_can_draw() -> None:
    assert list(samples.draw(shapes.CLASSES)) == list(shapes.CLASSES)
    assert list(samples.draw(("cat", "dog", "ship"))) == ["cat", "ship"]
    assert samples.draw(("a", "b")) == {}
    assert samples.draw(("cat",))["cat"] == samples.draw(("cat",))["cat"] != samples.draw(("frog",))["frog"]
