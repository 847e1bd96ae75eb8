"""The networks of published_work.py by family, and how qai-hub-models builds them without their weights."""

import collections
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from torch import nn
from transformers import BertConfig, DetrConfig, Dinov2Config, WhisperConfig

__all__ = ["CONFIGS", "NETWORKS", "without_weights"]

NETWORKS = {
    "CNN": [
        "convnext_tiny",
        "convnext_v2_base",
        "dla102x",
        "dncnn",
        "efficientnet_b0",
        "efficientnet_b4",
        "efficientnet_lite4",
        "esrgan",
        "face_attrib_net",
        "facemap_3dmm",
        "googlenet",
        "inception_v3",
        "mnasnet05",
        "mobilenet_v2",
        "mobilenet_v3_large",
        "nafnet_deblur",
        "nafnet_denoise",
        "nasnet",
        "osnet",
        "real_esrgan_general_x4v3",
        "real_esrgan_x4plus",
        "regnet",
        "repvit",
        "resnet101",
        "resnet18",
        "resnet50",
        "resnet_2plus1d",
        "resnet_3d",
        "resnet_mixed",
        "resnext101",
        "sequencer2d",
        "shufflenet_v2",
        "squeezenet1_1",
        "yolo26_pose",
        "yolov11_pose",
    ],
    "transformer": [
        "albert_base_v2_hf",
        "bert_base_uncased_hf",
        "depth_anything",
        "depth_anything_v2",
        "distil_whisper",
        "efficientformer",
        "electra_bert_base_discrim_google",
        "minilm_v2",
        "mobile_bert_uncased_google",
        "mobile_vit",
        "siglip2",
        "swin_base",
        "swin_tiny",
        "swinv2_base",
        "vit",
        "whisper_base",
        "whisper_small",
        "whisper_tiny",
    ],
    "detection": [
        "conditional_detr_resnet50",
        "detr_resnet101",
        "detr_resnet101_dc5",
        "detr_resnet50",
        "detr_resnet50_dc5",
        "face_det_lite",
        "gear_guard_net",
        "maskrcnn",
        "yolo26_det",
        "yolov10_det",
        "yolov11_det",
        "yolov3",
        "yolov5",
        "yolov8_det",
        "yolov8_obb",
        "yolov9_det",
    ],
    "segmentation": [
        "ddrnet23_slim",
        "deeplabv3_plus_mobilenet",
        "fastsam_s",
        "ffnet_122ns_lowres",
        "ffnet_40s",
        "ffnet_54s",
        "ffnet_78s",
        "ffnet_78s_lowres",
        "pidnet",
        "salsanext",
        "u2net_segmentation",
        "yolo26_seg",
        "yolov11_seg",
        "yolov8_seg",
    ],
}


def _detr(kind: type, depth: int, dilation: bool = False) -> Any:
    backbone = {"backbone": f"resnet{depth}", "use_timm_backbone": True, "use_pretrained_backbone": False}
    return kind(**backbone, backbone_config=None, dilation=dilation, num_labels=91)


def _whisper(width: int, layers: int, decoder_layers: int) -> WhisperConfig:
    heads = {"encoder_attention_heads": width // 64, "decoder_attention_heads": width // 64}
    wide = {"encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width}
    return WhisperConfig(d_model=width, encoder_layers=layers, decoder_layers=decoder_layers, **heads, **wide)


def _depth_anything() -> Any:
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
    backbone = Dinov2Config(**sizes, out_indices=[9, 10, 11, 12], apply_layernorm=True, reshape_hidden_states=False)
    neck = {"reassemble_hidden_size": 384, "neck_hidden_sizes": [48, 96, 192, 384], "fusion_hidden_size": 64}
    return transformers.DepthAnythingConfig(backbone_config=backbone, **neck)


AUTO = (
    *(transformers.AutoModel, transformers.AutoModelForMaskedLM, transformers.AutoModelForDepthEstimation),
    transformers.AutoModelForPreTraining,
)
_BASE = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
_SMALL = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}

CONFIGS: Mapping[str, Callable[[], Any]] = {
    "bert-base-uncased": BertConfig,
    "MiniLM": lambda: BertConfig(num_hidden_layers=6, **_SMALL),
    "mobilebert": transformers.MobileBertConfig,
    "albert-base-v2": lambda: transformers.AlbertConfig(**_BASE),
    "electra": lambda: transformers.ElectraConfig(embedding_size=768, num_hidden_layers=12, **_BASE),
    "depth-anything": _depth_anything,
    "Depth-Anything": _depth_anything,
    "mobilevit-small": lambda: transformers.MobileViTConfig(num_labels=1000),
    "convnextv2-base": lambda: transformers.ConvNextV2Config(
        depths=[3, 3, 27, 3], hidden_sizes=[128, 256, 512, 1024], num_labels=1000
    ),
    "conditional-detr-resnet-50": lambda: _detr(transformers.ConditionalDetrConfig, 50),
    "detr-resnet-50-dc5": lambda: _detr(DetrConfig, 50, dilation=True),
    "detr-resnet-101-dc5": lambda: _detr(DetrConfig, 101, dilation=True),
    "detr-resnet-50": lambda: _detr(DetrConfig, 50),
    "detr-resnet-101": lambda: _detr(DetrConfig, 101),
    "siglip2-base": lambda: transformers.SiglipConfig(
        text_config={"vocab_size": 256000, "max_position_embeddings": 64, "projection_size": 768}
    ),
    "whisper-tiny": WhisperConfig,
    "whisper-base": lambda: _whisper(512, 6, 6),
    "whisper-small": lambda: _whisper(768, 12, 12),
    "distil-small": lambda: _whisper(768, 12, 4),
}
"""The configurations that the model hub has beside the weights, by a part of their names there."""


class _Anything(collections.defaultdict[str, Any]):
    """A checkpoint that has whatever is asked for."""

    def __init__(self) -> None:
        super().__init__(_Anything)


@contextlib.contextmanager
def without_weights(configs: Mapping[str, Callable[[], Any]]) -> Iterator[None]:
    """Have torchvision, timm, transformers, ultralytics and qai-hub-models build networks and load no weights."""
    import timm
    import torchvision
    import ultralytics.models
    from qai_hub_models.utils import asset_loaders

    def from_pretrained(cls: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        config = next(make for part, make in configs.items() if part in name)()
        return (cls.from_config(config) if hasattr(cls, "from_config") else cls(config)).eval()

    def yolo(checkpoint: Any, *args: Any, **kwargs: Any) -> Any:
        name = str(checkpoint).replace("FastSAM-s", "yolov8s-seg").replace(".pt", ".yaml")
        return build_yolo(name)

    def create_model(name: str, *args: Any, **kwargs: Any) -> Any:
        return build_timm(name, *args, **{**kwargs, "pretrained": False})

    build_yolo, build_timm, nothing = ultralytics.models.YOLO, timm.create_model, lambda *args, **kwargs: None
    patches: list[tuple[Any, str, Any]] = [
        (nn.Module, "load_state_dict", nothing),
        (torch, "load", lambda *args, **kwargs: _Anything()),
        (torch.hub, "load_state_dict_from_url", lambda *args, **kwargs: {}),
        (torchvision.models.WeightsEnum, "get_state_dict", lambda *args, **kwargs: {}),
        (transformers.PreTrainedModel, "from_pretrained", classmethod(from_pretrained)),
        *((kind, "from_pretrained", classmethod(from_pretrained)) for kind in AUTO),
        (transformers.PreTrainedTokenizerBase, "from_pretrained", classmethod(nothing)),
        (transformers.AutoTokenizer, "from_pretrained", nothing),
        (timm, "create_model", create_model),
        (timm.models, "create_model", create_model),
        (ultralytics.models, "YOLO", yolo),
        (ultralytics.models.yolo, "YOLO", yolo),
        (ultralytics.models, "FastSAM", yolo),
        (asset_loaders, "load_torch", lambda *args, **kwargs: _Anything()),
        (asset_loaders.CachedWebModelAsset, "fetch", lambda *args, **kwargs: Path("none")),
        (asset_loaders, "query_yes_no", lambda *args, **kwargs: True),
    ]
    # Modules that took the function by name before it was replaced
    patches += [
        (module, "load_torch", lambda *args, **kwargs: _Anything())
        for name, module in list(sys.modules.items())
        if name.startswith("qai_hub_models.models") and hasattr(module, "load_torch")
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in patches:
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield
