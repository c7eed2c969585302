"""What is shown of a network's inside is what it computes: against hooks, captum and formulas in float64.

Every variant at reduced width, those with the ReLU before pooling (the paper) and behind it (the code of 2012).
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.interpolate import RegularGridInterpolator

from alexnet.base.errors import AlexNetError
from alexnet.data.preprocess import Preprocess
from alexnet.inference.dense import whole_picture
from alexnet.inference.inside import compare, fields, heat, maps, views, where
from alexnet.inference.inside.looking import look
from alexnet.inference.prediction import predict
from alexnet.networks import variants as v
from alexnet.networks.model import AlexNet
from alexnet.networks.variants import VARIANTS
from alexnet.weights.classifier import Classifier
from conftest import coloured
from narrow import narrow
from narrow_classifier import CLASSES, made, picture


@pytest.fixture(scope="module")
def captum():
    """Imported by the process that uses it alone, for that takes seconds."""
    return pytest.importorskip("captum.attr")


def plan(name: str) -> tuple[v.Layer, ...]:
    """The layers of a variant less how they begin and learn, which nothing here depends on."""
    same = {"std": 0.0, "bias": 0.0, "decay_mult": 1.0, "rate": 0.0}
    return tuple(replace(x, **{k: same[k] for k in same if hasattr(x, k)}) for x in narrow(name).layers)


@pytest.fixture(params={plan(name): name for name in reversed(VARIANTS)}.values())
def one(request) -> Classifier:
    return made(request.param)


GEOMETRIES = {tuple(map(fields._window, narrow(name).layers)): name for name in reversed(VARIANTS)}


def in_float64(classifier: Classifier) -> tuple[AlexNet, torch.Tensor]:
    """The network and what it is given of the picture."""
    return copy.deepcopy(classifier.model).double(), classifier.preprocess(picture())[None].double()


def relu_first(model: AlexNet) -> AlexNet:
    """The same network with every ReLU before the max pooling that it stands behind."""
    layers = list(model.variant.layers)
    for place in range(len(layers) - 1):
        if isinstance(layers[place], v.MaxPool) and isinstance(layers[place + 1], v.ReLU):
            layers[place], layers[place + 1] = layers[place + 1], layers[place]
    other = AlexNet(replace(model.variant, layers=tuple(layers)), model.classes, model.channels, model.input)
    other.load_state_dict(model.state_dict())
    return other.eval().double()


# -- maps -------------------------------------------------------------------------------------------------------------


def test_maps_are_what_hooks_see_in_float64(one):
    net, image = in_float64(one)
    seen: dict[str, torch.Tensor] = {}
    for name, layer in net.named_children():
        layer.register_forward_hook(lambda layer, given, found, name=name: seen.update({name: found[0].clone()}))
    logits = net(image)
    seen["prob"] = logits[0].softmax(0)
    names = [record.name for record in net.variant.layers]
    found = maps.activations(one, picture(), names)
    assert list(found) == names
    for name in names:
        wanted = seen[name].reshape(*seen[name].shape, *[1] * (3 - seen[name].dim())).detach().numpy()
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max(), err_msg=name)
        means = wanted.mean((1, 2))[maps.brightest_first(found[name])]
        assert (np.diff(means) <= 1e-4 * np.abs(wanted).max()).all()
    assert maps.spatial(one.model) == [name for name in names if seen[name].dim() == 3 and seen[name].shape[-1] > 1]


@pytest.mark.parametrize("name", [*GEOMETRIES.values(), "bvlc_alexnet_zoo"])
def test_a_receptive_field_is_what_a_pixel_that_is_no_number_spoils(name):
    one = made(name)
    net, image = in_float64(one)
    side, names = net.input, [name for name in net.order if net.order.index(name) <= net.order.index(net.logits)]
    spoilt = image.repeat(side, 1, 1, 1)
    spoilt[range(side), :, range(side), range(side)] = torch.nan
    with torch.no_grad():
        outputs = net.activations(spoilt, names)
    for name, output in outputs.items():
        if name not in {record.name for record in net.variant.layers}:
            continue
        field = fields.receptive_field(net.variant, name, side)
        reached = output.isnan().flatten(1).any(1) if output.dim() == 2 else output.isnan().any(1)
        if output.dim() == 2:
            assert field.box(0, 0) == (0, 0, side, side)
            left, top, right, bottom = field.seen(0, 0)
            assert reached.tolist() == [left <= pixel < right for pixel in range(side)]
            assert (left, right) == (top, bottom)
            continue
        for y in range(output.shape[2]):
            for x in (0, y, output.shape[3] - 1):
                left, top, right, bottom = field.seen(y, x)
                box = field.box(y, x)
                assert box[0] <= left <= right <= box[2]
                assert box[1] <= top <= bottom <= box[3]
                wanted = [top <= pixel < bottom and left <= pixel < right for pixel in range(side)]
                assert reached[:, y, x].tolist() == wanted, (name, y, x)


def test_a_patch_is_all_that_its_value_depends_on(one):
    layer = heat.last_maps(one.model)
    pictures = [np.asarray(picture(number)) for number in range(5)]
    number = int(maps.brightest_first(maps.maps(one, pictures[0], layer))[0])
    found = maps.top_patches(one, layer, number, pictures, count=3)
    greatest = [float(maps.maps(one, each, layer)[number].max()) for each in pictures]
    assert [patch.file for patch in found.patches] == [f"picture {n}" for n in np.argsort(greatest)[::-1][:3]]
    assert found.pictures == 5
    for patch in found.patches:
        stored = one.preprocess.pixels(pictures[int(patch.file.split()[1])]).permute(1, 2, 0).numpy()
        left, top, right, bottom = patch.box
        # Elsewhere the picture is gray; so it is in the patch where it is not seen.
        elsewhere = np.full((*stored.shape[:2], 3), maps.BEYOND, np.uint8)
        low, high = one.preprocess.low, one.preprocess.low + one.preprocess.input
        rows, columns = np.arange(max(low, top), min(high, bottom)), np.arange(max(low, left), min(high, right))
        elsewhere[np.ix_(rows, columns)] = patch.pixels[np.ix_(rows - top, columns - left)]
        value = maps.maps(one, elsewhere, layer)[number][patch.place]
        assert value == pytest.approx(patch.value, rel=1e-3, abs=1e-3)
        assert patch.value == pytest.approx(greatest[int(patch.file.split()[1])], rel=1e-4)
        shown = patch.pixels.reshape(-1, 3) != maps.BEYOND
        assert shown.any()
        same = (elsewhere == stored) | (elsewhere == maps.BEYOND)
        assert same.all()


def test_pictures_that_cannot_be_read_are_named_and_none_at_all_is_an_error(tmp_path):
    one = made("alexnet32")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    coloured("red", 1).save(tmp_path / "good.png")
    found = maps.top_patches(one, "conv2", 0, tmp_path)
    assert [patch.file for patch in found.patches] == [str(tmp_path / "good.png")]
    assert [each["file"] for each in found.failed] == [str(tmp_path / "broken.png")]
    with pytest.raises(
        AlexNetError, match=r"none of 1 picture to find patches in can be read \(.*broken.png: .*\); give a"
    ):
        maps.top_patches(one, "conv2", 0, [tmp_path / "broken.png"])
    with pytest.raises(AlexNetError, match="conv2 has no map 99; it has 32, from 0 to 31"):
        maps.top_patches(one, "conv2", 99, tmp_path)


def test_filters_are_a_convolutions_alone():
    one = made("cifar10_13")
    assert np.array_equal(maps.filters(one, "conv1"), one.model.conv1.weight.detach().numpy())
    for layer in ("local3", "relu1", "fc10"):
        with pytest.raises(AlexNetError, match=f"{layer} has no filters .* those of conv1, conv2 can be shown"):
            maps.filters(one, layer)


# -- heat -------------------------------------------------------------------------------------------------------------


def test_occlusion_is_captums_of_the_probability(one, captum):
    net, image = in_float64(one)
    side = net.input // 3
    stride = side - 2  # the last square overhangs
    witness = captum.Occlusion(lambda x: net(x).softmax(1))
    window = (3, side, side)
    with torch.no_grad():
        wanted = witness.attribute(image, window, strides=(3, stride, stride), baselines=0, target=3)[0]
    found = heat.occlusion(one, picture(), 3, side, stride)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted[0].numpy(), atol=2e-5)


def test_every_pixel_is_covered_by_default():
    one = made("alexnet32")
    net, image = in_float64(one)
    side, stride, size = 4, 2, net.input
    fall, covers = np.zeros((size, size)), np.zeros((size, size))
    with torch.no_grad():
        whole = net(image).softmax(1)[0, 2]
        for y in range(0, size, stride):
            for x in range(0, size, stride):
                if y - stride + side < size and x - stride + side < size:
                    covered = image.clone()
                    covered[:, :, y : y + side, x : x + side] = 0
                    fall[y : y + side, x : x + side] += float(whole - net(covered).softmax(1)[0, 2])
                    covers[y : y + side, x : x + side] += 1
    assert covers.min() > 0
    np.testing.assert_allclose(heat.occlusion(one, picture(), 2), fall / covers, atol=2e-5)


def test_gradient_times_input_is_captums(one, captum):
    net, image = in_float64(one)
    wanted = captum.InputXGradient(net).attribute(image.requires_grad_(), target=5)[0].sum(0).detach().numpy()
    found = heat.gradient_input(one, picture(), 5)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_grad_cam_is_captums_of_the_network_with_relu_before_pooling(one, captum):
    net, image = relu_first(one.model), one.preprocess(picture())[None].double()
    with torch.no_grad():
        assert torch.allclose(net(image), in_float64(one)[0](image))  # the exchange changes no answer
    convolutions = [record.name for record in net.variant.layers if isinstance(record, v.Conv | v.Local)]
    rectified = net.order[net.order.index(convolutions[-1]) + 1]
    assert rectified.startswith("relu")
    for number in range(CLASSES):
        witness = captum.LayerGradCam(net, getattr(net, rectified))
        wanted = witness.attribute(image, target=number, relu_attributions=True)[0, 0].detach().numpy()
        found = heat.cam(one, picture(), number)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=1e-4 * max(1e-3, np.abs(wanted).max()))


def test_grad_cam_of_a_named_layer_is_captums_of_that_layer(one, captum):
    net, image = in_float64(one)
    for name in maps.spatial(one.model)[2::4]:
        wanted = captum.LayerGradCam(net, getattr(net, name)).attribute(image, target=1, relu_attributions=True)[0, 0]
        wanted = wanted.detach().numpy()
        np.testing.assert_allclose(
            heat.cam(one, picture(), 1, name), wanted, atol=1e-4 * max(1e-3, wanted.max()), err_msg=name
        )


def test_a_map_is_spread_from_the_middles_of_its_receptive_fields():
    one, side = made("alexnet2012"), 96
    field = fields.receptive_field(one.model.variant, "conv5", side)
    values = np.random.default_rng(0).normal(size=(5, 5))
    centres = [field.start + place * field.stride + (field.size - 1) / 2 for place in range(5)]
    at = np.arange(side).clip(centres[0], centres[-1])
    witness = RegularGridInterpolator((centres, centres), values)
    wanted = witness(np.stack(np.meshgrid(at, at, indexing="ij"), -1))
    np.testing.assert_allclose(heat.spread(values, field, side), wanted, atol=1e-6)
    whole = heat.grad_cam(one, picture(), 0)
    np.testing.assert_allclose(whole, heat.spread(heat.cam(one, picture(), 0), field, side))


def test_a_heat_map_of_what_there_is_not_is_refused():
    one = made("alexnet32")
    for method in heat.METHODS.values():
        with pytest.raises(AlexNetError, match=r"class 7 was asked for; .* knows classes 0 to 6"):
            method.draw(one, picture(), 7)
        assert method.says.count(".") == 1
        assert "not show" in method.says or "says little" in method.says
    with pytest.raises(AlexNetError, match="fc6 has no maps for Grad-CAM to lie on; give a layer before fc6"):
        heat.grad_cam(one, picture(), 0, "fc6")
    with pytest.raises(AlexNetError, match="squares of 9 pixels in steps of 10"):
        heat.occlusion(one, picture(), 0, 9, 10)


def test_a_class_may_be_a_whole_number_of_another_library_and_one_name_stand_for_several():
    found = look(made("alexnet32"), picture(), "gradient", of=np.int64(3))
    assert (list(found.heat), found.class_index, found.maps) == (["gradient"], 3, {})
    assert list(look(made("alexnet32"), picture(), "maps", layers="conv5").maps) == ["conv5"]
    for wrong in (True, 1.5, None.__class__):
        with pytest.raises(AlexNetError, match="give a name, WordNet id or number"):
            look(made("alexnet32"), picture(), "gradient", of=wrong)


def test_heat_maps_can_be_drawn_within_inference_mode():
    one = made("alexnet2012")
    for method in heat.METHODS.values():
        with torch.inference_mode():
            inside = method.draw(one, picture(), 1)
        assert np.array_equal(inside, method.draw(one, picture(), 1))


# -- views, where, compare --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("square", ["crop", "squash", "torchvision"])
def test_ten_views_are_cut_where_their_boxes_say_and_their_mean_is_the_answer_of_predict(square):
    one = made("alexnet2012", square)
    found = views.ten(one, picture())
    stored = one.preprocess.pixels(picture()).permute(1, 2, 0).numpy()
    for number, (crop, (left, top, right, bottom)) in enumerate(zip(found.crops, found.boxes, strict=True)):
        cut = stored[int(top) : int(bottom), int(left) : int(right)]
        assert np.array_equal(crop, cut[:, ::-1] if number >= 5 else cut), found.names[number]
    (answer,) = predict(one, picture(), topk=CLASSES, views=10)
    assert {c.index: pytest.approx(c.probability, abs=1e-5) for c in answer.classes} == dict(enumerate(found.mean))
    assert len(set(found.names)) == 10


def test_views_of_a_network_that_sees_whole_pictures_lie_within_the_enlarged_one():
    one = made("cifar10_18")
    side = one.preprocess.input
    whole = replace(one, preprocess=replace(one.preprocess, stored=side, mean=torch.full((3, 1, 1), 99.0)))
    found = views.ten(whole, picture())
    assert min(box[0] for box in found.boxes) == 0
    assert max(box[3] for box in found.boxes) == pytest.approx(side)
    assert found.crops.shape == (10, side, side, 3)


@pytest.mark.parametrize("square", ["crop", "squash", "torchvision"])
@pytest.mark.parametrize("size", [(150, 120), (64, 200), (3, 700)])
def test_the_steps_end_in_what_the_network_is_given(square, size):
    preprocess = made("alexnet2012", square).preprocess
    given = picture().resize(size)
    original, whole, cut, crop, apart = views.preprocessing_steps(preprocess, given)
    assert np.array_equal(original.pixels, np.asarray(given))
    side = preprocess.stored
    assert min(whole.pixels.shape[:2]) == side
    assert (whole.name == "both sides") == (square == "squash")
    assert np.array_equal(cut.pixels, preprocess.pixels(given).permute(1, 2, 0))
    if max(size) < 64 * min(size):  # of longer ones only what is kept is resized
        rows, columns = np.array(whole.pixels.shape[:2]) - side
        assert np.array_equal(
            cut.pixels, whole.pixels[rows // 2 : rows // 2 + side, columns // 2 : columns // 2 + side]
        )
    network = preprocess(given).permute(1, 2, 0).numpy() * preprocess.scale[0]
    most = np.abs(network).max()
    np.testing.assert_allclose(apart.pixels, 127.5 + 127.5 * network / most, atol=0.51)
    assert crop.pixels.shape[0] == preprocess.input


def test_a_place_of_the_class_map_is_what_the_dense_form_says_there():
    one = made("alexnet2012")
    found = where.where(one, picture(), 144)
    assert found.picture.shape == (144, 180, 3)
    assert np.allclose(found.probabilities.sum(0), 1, atol=1e-5)
    assert found.best.shape == found.probabilities.shape[1:]
    net, _ = in_float64(one)
    mean = one.preprocess.mean.double().mean((1, 2), keepdim=True)
    x = (torch.from_numpy(found.picture.copy()).permute(2, 0, 1).double() - mean)[None] / 64
    for name in net.order[: net.order.index("flatten")]:
        x = getattr(net, name)(x)
    side = net.fc6.in_features // x.shape[1]
    for y, x_at in ((0, 0), (1, 2)):
        part = x[:, :, y : y + round(side**0.5), x_at : x_at + round(side**0.5)].flatten(1)
        for name in net.order[net.order.index("flatten") + 1 : net.order.index(net.logits) + 1]:
            part = getattr(net, name)(part)
        np.testing.assert_allclose(found.probabilities[:, y, x_at], part.softmax(1)[0].detach(), atol=1e-4)
    with pytest.raises(AlexNetError, match=r"a picture of 4000 x 5000 pixels; .* 1248 at most: give another shorter"):
        where.where(one, picture(), 4000)


def test_of_a_long_picture_the_class_map_is_of_as_many_pixels_as_fit():
    one = made("alexnet32")
    most = 12 * one.preprocess.stored
    assert where.where(one, picture().resize((1200, 100))).picture.shape == (most // 12, most, 3)
    with pytest.raises(AlexNetError, match="most: cut the picture"):
        where.where(one, picture().resize((2000, 100)))


def test_the_dense_form_is_shown_the_pixels_that_the_network_is_shown():
    how = Preprocess(48, 48, "RGB", (64.0,), torch.full((3, 1, 1), 120.0))
    square = picture().crop((0, 0, 120, 120))
    assert torch.equal(whole_picture(how, square, 48)[0], how(square))
    one = made("alexnet2012")
    square = square.resize((90, 90), Image.Resampling.BILINEAR)
    side = one.preprocess.stored
    assert np.array_equal(where.where(one, square, side).picture, one.preprocess.pixels(square).permute(1, 2, 0))


def test_two_models_differ_where_they_were_made_to():
    one = made("alexnet2012")
    other = replace(one, model=copy.deepcopy(one.model))
    assert all(each.difference == 0 for each in compare.compare_inside(one, other, picture()).layers)
    with torch.no_grad():
        other.model.conv3.bias += 1.0
    found = {each.layer: each for each in compare.compare_inside(one, other, picture()).layers}
    assert [name for name, each in found.items() if each.difference == 0][-1] == "pool2"
    assert found["conv3"].difference == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(found["conv3"].map, 1, atol=1e-3)
    values = [maps.maps(model, picture(), "conv4").astype(np.float64) for model in (one, other)]
    apart = np.linalg.norm(values[0] - values[1]) / np.linalg.norm(values[0])
    assert found["conv4"].relative == pytest.approx(apart, rel=1e-4)


def test_two_models_are_compared_class_by_class_whatever_their_order():
    one = made("alexnet2012")
    other = replace(one, model=copy.deepcopy(one.model), classes=one.classes[::-1])
    for each in other.model.fc8.parameters():
        each.data = each.data.flip(0)
    found = {each.layer: each.difference for each in compare.compare_inside(one, other, picture()).layers}
    assert found["fc8"] == found["prob"] == 0


def test_layers_that_only_one_of_two_models_has_are_named():
    found = compare.compare_inside(made("alexnet2012"), made("alexnet_owt"), picture())
    assert found.apart[:2] == ["conv1", "norm1"] or "norm1" in found.apart
    assert {each.layer for each in found.layers} & set(found.apart) == set()
    assert [c.label for c in found.first] == [c.label for c in predict(made("alexnet2012"), picture())[0].classes]
