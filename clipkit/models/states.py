"""The weights of a model under the names that its own library gives them."""

import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.layouts import State
from clipkit.models.open_clip_towers import build_open_clip


def open_clip_state(model: DualEncoder) -> State:
    """Return the weights of a model of kind open_clip under the names of its `CustomTextCLIP`."""
    found = _tower_states(model, "visual", "text")
    expected = build_open_clip(
        model.architecture["config"], model.architecture.get("text_config")
    ).state_dict()
    for side, projection in (
        ("visual", model.image_projection),
        ("text", model.text_projection),
    ):
        lacking = [n for n in expected if n.startswith(f"{side}.") and n not in found]
        found.update(_put_back(lacking, projection))
    found["logit_scale"] = model.log_logit_scale.detach().reshape(expected["logit_scale"].shape)
    if model.logit_bias_parameter is not None and "logit_bias" in expected:
        bias = model.logit_bias_parameter.detach()
        found["logit_bias"] = bias.reshape(expected["logit_bias"].shape)
    return {name: found[name] for name in expected if name in found}


def transformers_state(model: DualEncoder) -> State:
    """Return the weights of a model of kind transformers under its library's names."""
    found = _tower_states(model, "vision_model", "text_model")
    for name, projection in (
        ("visual_projection", model.image_projection),
        ("text_projection", model.text_projection),
    ):
        found.update({f"{name}.{key}": v for key, v in projection.state_dict().items()})
    settings = dict(model.architecture["config"])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    with torch.device("meta"):
        plan = AutoModel.from_config(config, trust_remote_code=False)
    scale, bias = model.log_logit_scale.detach(), model.logit_bias_parameter
    values = {"logit_scale": scale, "temperature": (-scale).exp()}
    if bias is not None:
        values["logit_bias"] = bias.detach()
    for name, parameter in plan.named_parameters(recurse=False):
        found[name] = values[name].reshape(parameter.shape)
    return found


def _tower_states(model: DualEncoder, image: str, text: str) -> State:
    """Return the towers' own weights below the names that their library gives the towers."""
    names = {"image_tower.model.": f"{image}.", "text_tower.model.": f"{text}."}
    return {
        new + name.removeprefix(old): value
        for name, value in model.state_dict().items()
        for old, new in names.items()
        if name.startswith(old)
    }


def _put_back(lacking: list[str], projection: nn.Module) -> State:
    """Return a projection's weights under the names that its tower lacks since it was taken out."""
    state = projection.state_dict()
    if len(lacking) == 1 and set(state) == {"weight"} and not lacking[0].endswith(".weight"):
        return {lacking[0]: state["weight"].T.contiguous()}
    found = {}
    for name in lacking:
        key = next((key for key in state if name.endswith(f".{key}")), None)
        if key is not None:
            found[name] = state[key]
    return found
