"""What configuration may call: the library's own, never what a permitted module has imported for itself."""

from __future__ import annotations

import pytest

from testbed.launcher.instantiate import locate
from testbed.words import Refused


@pytest.mark.parametrize(
    "name",
    [
        *(
            "torchvision.models._api.load_state_dict_from_url",
            "torchvision.models._api.get_model",
            "torchvision.models.resnet.partial",
        ),
        *("torch.optim.optimizer.deepcopy", "torch.optim.adam.torch", "torch.optim._functional.adam"),
        *("testbed.files.write_whole", "testbed.cli.main", "testbed.untrusted.opened", "testbed.detector.strip.torch"),
        *("testbed.data.image_folder.Path", "testbed.launcher.new.written"),
    ],
)
def test_loaders_and_writers_are_out_of_reach(name: str) -> None:
    with pytest.raises(Refused) as refusal:
        locate(name, "defence", ())
    assert refusal.value.code == 3


@pytest.mark.parametrize(
    "name",
    [
        "torch.optim.SGD",
        "torch.optim.lr_scheduler.CosineAnnealingLR",
        "torchvision.models.resnet18",
        "testbed.defence.none.NoDefence",
    ],
)
def test_what_configuration_is_made_of_is_found(name: str) -> None:
    assert locate(name, "defence", ()).__name__ == name.rpartition(".")[2]
    assert locate("os.getcwd", "defence", ("os.getcwd",)).__name__ == "getcwd"
