import pytest
import torch
from torch import nn

from dynconv.layer import DynamicConv1d, DynamicConv2d, TemperatureSchedule


def net() -> nn.Module:
    return nn.Sequential(DynamicConv2d(3, 8, 3), nn.ReLU(), nn.Flatten(2), DynamicConv1d(8, 8, 3))


def temperatures(module: nn.Module) -> list[float]:
    return [float(value) for name, value in module.state_dict().items() if name.endswith("temperature")]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [30, 22.75, 15.5, 8.25, 1, 1]),
        ("cosine", [30, 25.7533, 15.5, 5.2467, 1, 1]),
        ("constant", [30, 30, 30, 30, 30, 30]),
    ],
)
def test_every_router_follows_the_schedule(shape: str, expected: list[float]) -> None:
    module = net()
    schedule = TemperatureSchedule(module, 30, 1, steps=4, shape=shape)  # type: ignore[arg-type]
    for temperature in expected:
        assert temperatures(module) == pytest.approx([temperature] * 2, abs=1e-3)
        assert schedule.temperature == pytest.approx(temperature, abs=1e-3)
        schedule.step()


def test_a_resumed_schedule_goes_on_where_it_was() -> None:
    module = net()
    schedule = TemperatureSchedule(module, 30, 1, steps=10, shape="cosine")
    for _ in range(3):
        schedule.step()
    saved = {"net": module.state_dict(), "schedule": schedule.state_dict()}

    again = net()
    again.load_state_dict(saved["net"])
    assert temperatures(again) == temperatures(module), "the weights alone have the temperature"
    resumed = TemperatureSchedule(again, 1, 1, steps=1)
    resumed.load_state_dict(saved["schedule"])
    for _ in range(9):
        assert temperatures(again) == temperatures(module)
        schedule.step()
        resumed.step()
    assert temperatures(again) == [1.0, 1.0]


def test_a_high_temperature_makes_routing_even() -> None:
    torch.manual_seed(0)
    layer, x = DynamicConv2d(3, 4, 3), torch.randn(8, 3, 6, 6)
    nn.init.normal_(layer.router.linear.weight, std=5.0)
    schedule = TemperatureSchedule(layer, 1000, 1, steps=1)

    assert (layer.routing_weights(x) - 0.25).abs().max() < 0.01
    schedule.step()
    assert layer.routing_weights(x).std(0).min() > 0.05


@pytest.mark.parametrize(
    ("module", "arguments", "reason"),
    [
        (nn.Linear(2, 2), {"start": 30, "steps": 1}, "net: there is no dynamic layer"),
        (net(), {"start": 0, "steps": 1}, "start: must be positive and finite, not 0"),
        (net(), {"start": 30, "end": float("nan"), "steps": 1}, "end: must be positive and finite, not nan"),
        (net(), {"start": 30, "steps": 0}, "steps: must be at least 1, not 0"),
        (net(), {"start": 30, "steps": 1, "shape": "step"}, "shape: 'step' is none of linear, cosine, constant"),
    ],
)
def test_wrong_arguments_are_named(module: nn.Module, arguments: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TemperatureSchedule(module, **arguments)  # type: ignore[arg-type]
