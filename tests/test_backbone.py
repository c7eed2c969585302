"""Feature maps and dense scores against the network itself and a written-out loop; inside torchvision's models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

import alexnet as package
from alexnet.backbone import Backbone, dense, whole_picture
from alexnet.base.errors import AlexNetError
from alexnet.networks.model import seeded_build
from alexnet.networks.variants import VARIANTS
from conftest import coloured
from narrow import FILTERS
from tooled import net, pictures

pytestmark = pytest.mark.device


@pytest.mark.parametrize("variant", ["alexnet2012", "alexnet_owt", "caffenet", "alexnet_bn", "alexnet64"])
def test_feature_maps_are_those_of_the_network(variant):
    model = net(variant)
    x = torch.randn(2, 3, model.input, model.input, generator=torch.Generator().manual_seed(0))
    backbone = Backbone(model, {"conv5": "late", "pool1": "early"}).eval()
    with torch.no_grad():
        maps = backbone(x)
        assert list(maps) == ["early", "late"]
        for name, layer in (("early", "pool1"), ("late", "conv5")):
            expected = model(x, until=layer)
            torch.testing.assert_close(maps[name], expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert backbone.out_channels == [maps["early"].shape[1], maps["late"].shape[1]]
    assert Backbone(model).out_channels == FILTERS["conv5"]
    for name, stride in zip(maps, backbone.strides, strict=True):
        assert abs(model.input / maps[name].shape[-1] - stride) < stride * 0.25


def test_a_backbone_takes_any_size_and_leaves_the_network_alone():
    model = seeded_build(0, "alexnet_owt", 5, 3, 224)
    before = model.conv1.weight.clone()
    backbone = Backbone(model)
    (maps,) = backbone(torch.randn(1, 3, 100, 333)).values()
    assert maps.shape[:2] == (1, 256)
    maps.sum().backward()
    with torch.no_grad():
        backbone.conv1.weight -= backbone.conv1.weight.grad
    assert torch.equal(model.conv1.weight, before)
    assert model.conv1.weight.grad is None


def test_image_mean_and_std_are_the_preprocessing_for_pictures_in_0_to_1(tiny_run):
    one = package.load(tiny_run)
    backbone = Backbone(one)
    picture = coloured("red", 1, (28, 28))
    unit = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in (backbone.image_mean, backbone.image_std))
    torch.testing.assert_close((unit - mean) / std, whole_picture(one.preprocess, picture), rtol=1e-4, atol=1e-4)


def test_it_drops_into_torchvisions_faster_rcnn_with_and_without_a_pyramid():
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops import MultiScaleRoIAlign

    model = seeded_build(0, "alexnet64", 5, 3, 56)
    plain = Backbone(model, "relu5")
    pyramid = BackboneWithFPN(Backbone(model, "relu5"), {"relu3": "0", "relu5": "1"}, [384, 256], 64)
    anchors = AnchorGenerator(((8, 16, 32),), ((0.5, 1.0, 2.0),))
    three = AnchorGenerator(((8,), (16,), (32,)), ((0.5, 1.0, 2.0),) * 3)
    target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    for backbone, generator in ((plain, anchors), (pyramid, three)):
        roi = MultiScaleRoIAlign(["relu5"] if backbone is plain else ["0", "1", "pool"], 4, 2)
        detector = FasterRCNN(backbone, 3, 64, 64, rpn_anchor_generator=generator, box_roi_pool=roi)
        losses = detector([torch.rand(3, 64, 64)], [target])
        assert all(torch.isfinite(loss) for loss in losses.values())
        sum(losses.values()).backward()
        assert next(backbone.parameters()).grad.abs().sum() > 0
        assert set(detector.eval()([torch.rand(3, 50, 64)])[0]) == {"boxes", "labels", "scores"}


def test_it_drops_into_torchvisions_fcn():
    from torchvision.models.segmentation.fcn import FCN, FCNHead

    model = seeded_build(0, "alexnet64", 5, 3, 56)
    net = FCN(Backbone(model, {"relu4": "out"}), FCNHead(384, 4))
    out = net(torch.rand(2, 3, 72, 88))["out"]
    assert out.shape == (2, 4, 72, 88)
    out.mean().backward()


def test_a_backbone_ends_before_the_fully_connected_layers():
    model = seeded_build(0, "alexnet32", 5, 3, 28)
    with pytest.raises(AlexNetError, match="fc6 is one: give relu5 or a layer before it"):
        Backbone(model, ["relu3", "fc7"])
    with pytest.raises(AlexNetError, match="has no layer 'relu9'"):
        Backbone(model, "relu9")
    local = seeded_build(0, "cifar10_13", 10, 3, 24)
    with pytest.raises(AlexNetError, match="belong"):
        Backbone(local, "local3")
    with pytest.raises(AlexNetError, match="has no dense form"):
        dense(local)


@pytest.mark.parametrize("variant", ["alexnet2012", "alexnet_owt", "alexnet2012_apart", "alexnet_bn", "alexnet32"])
def test_dense_scores_of_a_picture_of_the_inputs_size_are_the_logits(variant):
    model = net(variant)
    x = torch.randn(2, 3, model.input, model.input)
    with torch.no_grad():
        scores, logits = dense(model)(x), model(x)
    assert scores.shape == (2, 7, 1, 1)
    torch.testing.assert_close(scores[:, :, 0, 0], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["alexnet_owt", "alexnet2012_apart"])
def test_dense_scores_are_the_layers_of_a_loop_over_windows_of_the_last_maps(variant):
    model = net(variant)
    x = torch.randn(1, 3, model.input + 66, model.input + 98)
    after = [record.name for record in model.variant.layers]
    last = after[after.index("fc6") - 1 :] if variant != "alexnet_owt" else after[after.index("drop6") - 1 :]
    backbone = Backbone(model, last[0]).eval()
    with torch.no_grad():
        maps = backbone(x)[last[0]]
        side = round((model.fc6.in_features * getattr(model.fc6, "groups", 1) / maps.shape[1]) ** 0.5)
        scores = dense(model)(x)
        assert dense(model).stride == 32
        assert scores.shape[2:] == (maps.shape[2] - side + 1, maps.shape[3] - side + 1) == (3, 4)
        for i in range(scores.shape[2]):
            for j in range(scores.shape[3]):
                y = maps[:, :, i : i + side, j : j + side].flatten(1)
                for name in last[1 : last.index(model.logits) + 1]:
                    y = getattr(model, name)(y)
                torch.testing.assert_close(scores[:, :, i, j], y, rtol=1e-4, atol=1e-5)


def test_dense_mode_finds_where_a_class_is(tiny_run):
    """A picture that is red at the left and blue at the right has these classes there."""
    one = package.load(tiny_run)
    scene = Image.new("RGB", (96, 48))
    scene.paste(coloured("red", 1, (48, 48)), (0, 0))
    scene.paste(coloured("blue", 2, (48, 48)), (48, 0))
    with torch.no_grad():
        scores = dense(one)(whole_picture(one.preprocess, scene))[0].softmax(0)
    found = scores.argmax(0)
    assert (found[:, 0] == one.classes.index("red")).all()
    assert (found[:, -1] == one.classes.index("blue")).all()
    assert whole_picture(one.preprocess, scene, 64).shape == (1, 3, 64, 128)


def test_a_fully_connected_layer_that_is_none_has_no_dense_form_and_one_without_bias_has():
    model = seeded_build(0, "alexnet32", 5, 3, 28).eval()
    model.fc8 = torch.nn.Linear(model.fc8.in_features, 3, bias=False)
    x = torch.randn(1, 3, 28, 28)
    torch.testing.assert_close(dense(model)(x)[..., 0, 0], model(x))
    model.fc8 = torch.nn.Sequential(model.fc8)
    with pytest.raises(
        AlexNetError, match=r"^fc8 is Sequential, which has no dense form; .* must be a plain Linear there"
    ):
        dense(model)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_backbone_says_how_large_a_picture_must_be(variant):
    model = net(variant)
    backbone = Backbone(model, {"pool1": "early", model.order[model.order.index("conv2") + 1]: "late"}).eval()
    side = backbone.smallest
    with torch.no_grad():
        assert all(min(maps.shape) > 0 for maps in backbone(torch.zeros(1, 3, side, side)).values())
        with pytest.raises(AlexNetError, match=f"of 1 x {side} pixels, .* of {side} or more on both sides"):
            backbone(torch.zeros(1, 3, 1, side))
        with pytest.raises(RuntimeError, match="channels"):
            backbone(torch.zeros(1, 5, side, side))


def test_a_backbone_gives_each_map_a_name_of_its_own():
    with pytest.raises(AlexNetError, match="two layers' maps as 'out'; give each a name"):
        Backbone(net("alexnet32"), {"relu3": "out", "relu5": "out"})


class Halving(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) / 2


# What makes a fully connected layer do more than its weights say, and what the error calls it.
MORE = {
    "another class": (lambda m: setattr(m.fc6, "__class__", Halving), "fc6 is Halving, which"),
    "a forward of its own": (lambda m: setattr(m.fc6, "forward", lambda x: x), "fc6 is Linear with hooks or a forward"),
    "a hook": (lambda m: m.fc6.register_forward_hook(lambda layer, x, y: y / 2), "fc6 is Linear with hooks"),
    "a hook before": (lambda m: m.fc7.register_forward_pre_hook(lambda layer, x: None), "fc7 is Linear with hooks"),
    "pruned": (lambda m: prune.identity(m.fc8, "weight"), "fc8 is Linear with hooks"),
    "parametrized and hooked": (
        lambda m: weight_norm(m.fc8).register_forward_hook(lambda layer, x, y: y / 2), "fc8 is ParametrizedLinear with",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", MORE)
def test_a_fully_connected_layer_that_does_more_than_its_weights_say_has_no_dense_form(change):
    model = seeded_build(0, "alexnet32", 5, 3, 28)
    MORE[change][0](model)
    with pytest.raises(AlexNetError, match=f"^{MORE[change][1]}.* has no dense form"):
        dense(model)


@pytest.mark.parametrize("variant", ["alexnet32", "alexnet2012_apart"])
def test_a_parametrized_layer_has_the_dense_form_of_the_weights_that_it_computes(variant):
    model = net(variant)
    x = pictures(model, 1)
    weight_norm(model.fc7)
    with torch.no_grad():
        model.fc7.parametrizations.weight.original0 *= 3
        torch.testing.assert_close(dense(model)(x)[..., 0, 0], model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dense_form_has_the_types_the_device_and_the_frozen_layers_of_its_network(dtype):
    model = seeded_build(0, "alexnet32", 5, 3, 28).to(dtype).eval()
    model.fc6.requires_grad_(False)
    model.fc7.bias.requires_grad_(False)
    x = torch.randn(1, 3, 28, 28).to(dtype)
    made = dense(model)
    torch.testing.assert_close(made(x)[..., 0, 0], model(x), rtol=0.02, atol=0.02)
    frozen = [name for name, one in model.named_parameters() if not one.requires_grad]
    assert [name for name, one in made.named_parameters() if not one.requires_grad] == frozen
    assert len(frozen) == 3
    elsewhere = dense(model.to("meta"))
    assert {one.device.type for one in elsewhere.parameters()} == {"meta"}
    assert elsewhere(x.to("meta")).shape == (1, 5, 1, 1)


def test_dense_mode_refuses_pictures_that_are_too_small():
    model = seeded_build(0, "alexnet32", 5, 3, 28)
    with pytest.raises(ValueError, match="both sides must be 28 or more"):
        dense(model)(torch.zeros(1, 3, 27, 60))


def test_a_whole_picture_with_a_side_below_0_is_refused():
    with pytest.raises(AlexNetError, match="shorter side was to be -5 pixels; give"):
        whole_picture(package.load("tiny").preprocess, Image.new("RGB", (9, 9)), -5)


def test_a_whole_picture_too_large_for_memory_is_refused():
    strip = Image.new("RGB", (60_000, 1))
    with pytest.raises(AlexNetError, match=r"60,000 x 1 pixels would become one of 15,360,000 x 256, more than"):
        whole_picture(package.load("tiny").preprocess, strip, 256)
