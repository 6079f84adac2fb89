"""List the networks of keras.applications: frame sizes, preprocessing, and files of weights."""

from collections.abc import Iterator
from typing import NamedTuple

from vidrec.models.encoders.weights.names import File

URL = "https://storage.googleapis.com/tensorflow/keras-applications/"


class Entry(NamedTuple):
    """One network.

    Attributes:
        module: Module of keras.applications with the network's `preprocess_input`.
        size: Height and width of the frames that the network was trained on.
        file: The file of its ImageNet weights without the top.
        url: URL of the folder with this file.
    """

    module: str
    size: int
    file: File
    url: str


def _file(name: str, content: str) -> File:
    """Return a file whose MD5 or SHA-256 is `content`; "" if Keras checks none."""
    is_md5 = len(content) < 64
    return File(name, content if is_md5 else "", False, "" if is_md5 else content)


def _entries() -> Iterator[tuple[str, Entry]]:
    usual = "{}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    rows = (
        ("Xception", "xception", 299, usual, "b0042744bf5b25fce3cb969f33bebb97"),
        ("VGG16", "vgg16", 224, usual, "6d6bbae143d832006294945121d1f1fc"),
        ("VGG19", "vgg19", 224, usual, "253f8cb515780f3b799900260a226db6"),
        ("ResNet50", "resnet", 224, usual, "4d473c1dd8becc155b73f8504c6f6626"),
        ("ResNet101", "resnet", 224, usual, "88cf7a10940856eca736dc7b7e228a21"),
        ("ResNet152", "resnet", 224, usual, "ee4c566cf9a93f14d82f913c2dc6dd0c"),
        ("ResNet50V2", "resnet_v2", 224, usual, "fac2f116257151a9d068a22e544a4917"),
        ("ResNet101V2", "resnet_v2", 224, usual, "c0ed64b8031c3730f411d2eb4eea35b5"),
        ("ResNet152V2", "resnet_v2", 224, usual, "ed17cf2e0169df9d443503ef94b23b33"),
        ("InceptionV3", "inception_v3", 299, usual, "bcbd6486424b2319ff4ef7d526e38f63"),
        (
            "InceptionResNetV2",
            "inception_resnet_v2",
            299,
            usual,
            "d19885ff4a710c122648d3b5c3b684e4",
        ),
        ("MobileNet", "mobilenet", 224, "mobilenet_1_0_224_tf_no_top.h5", ""),
        (
            *("MobileNetV2", "mobilenet_v2", 224),
            *("mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", ""),
        ),
        (
            *("MobileNetV3Small", "mobilenet_v3", 224),
            "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
            "d3e8ec802a04aa4fc771ee12a9a9b836",
        ),
        (
            *("MobileNetV3Large", "mobilenet_v3", 224),
            "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
            "07fb09a5933dd0c8eaafa16978110389",
        ),
        ("DenseNet121", "densenet", 224, usual, "30ee3e1110167f948a6b9946edeeb738"),
        ("DenseNet169", "densenet", 224, usual, "b8c4d4c20dd625c148057b9ff1c1176b"),
        ("DenseNet201", "densenet", 224, usual, "c13680b51ded0fb44dff2d8f86ac8bb1"),
        (
            "NASNetMobile",
            "nasnet",
            224,
            "nasnet_mobile_no_top.h5",
            "1ed92395b5b598bdda52abe5c0dbfd63",
        ),
        (
            "NASNetLarge",
            "nasnet",
            331,
            "nasnet_large_no_top.h5",
            "d81d89dc07e6e56530c4e77faddd61b5",
        ),
    )
    folders = {"ResNet50V2": "resnet", "ResNet101V2": "resnet", "ResNet152V2": "resnet"}
    for name, module, size, file, content in rows:
        stem = {"InceptionV3": "inception_v3", "InceptionResNetV2": "inception_resnet_v2"}
        entry_file = _file(file.format(stem.get(name, name.lower())), content)
        yield name, Entry(module, size, entry_file, f"{URL}{folders.get(name, module)}/")
    yield from _newer()


def _newer() -> Iterator[tuple[str, Entry]]:
    """Yield the networks of families with uniform file names, which normalize pixels themselves."""
    efficientnets = {
        "B0": (224, "50bc09e76180e00e4465e1a485ddc09d"),
        "B1": (240, "74c4e6b3e1f6a1eea24c589628592432"),
        "B2": (260, "111f8e2ac8aa800a7a99e3239f7bfb39"),
        "B3": (300, "af6d107764bb5b1abb91932881670226"),
        "B4": (380, "ebc24e6d6c33eaebbd558eafbeedf1ba"),
        "B5": (456, "38879255a25d3c92d5e44e04ae6cec6f"),
        "B6": (528, "9ecce42647a20130c1f39a5d4cb75743"),
        "B7": (600, "cbcfe4450ddf6f3ad90b1b398090fe4a"),
    }
    for name, (size, md5) in efficientnets.items():
        file = _file(f"efficientnet{name.lower()}_notop.h5", md5)
        url = "https://storage.googleapis.com/keras-applications/"
        yield f"EfficientNet{name}", Entry("efficientnet", size, file, url)
    second = {
        "B0": (224, "893217f2bb855e2983157299931e43ff"),
        "B1": (240, "0e80663031ca32d657f9caa404b6ec37"),
        "B2": (260, "1dfe2e7a5d45b6632553a8961ea609eb"),
        "B3": (300, "f6abf7b5849ac99a89b50dd3fd532856"),
        "S": (384, "af0682fb74e8c54910f2d4393339c070"),
        "M": (480, "1b8dc055df72dde80d614482840fe342"),
        "L": (480, "b0b66b5c863aef5b46e8608fe1711615"),
    }
    for name, (size, md5) in second.items():
        file = _file(f"efficientnetv2-{name.lower()}_notop.h5", md5)
        url = f"{URL}efficientnet_v2/"
        yield f"EfficientNetV2{name}", Entry("efficientnet_v2", size, file, url)
    convnexts = {
        "Tiny": "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
        "Small": "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab",
        "Base": "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45",
        "Large": "96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd",
        "XLarge": "de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05",
    }
    for name, sha256 in convnexts.items():
        file = _file(f"convnext_{name.lower()}_notop.h5", sha256)
        yield f"ConvNeXt{name}", Entry("convnext", 224, file, f"{URL}convnext/")


NETWORKS = dict(_entries())
