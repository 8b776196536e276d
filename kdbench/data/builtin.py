"""The data sets kdbench knows by itself: their sizes, statistics, sources and digests."""

from __future__ import annotations

from dataclasses import replace

from kdbench.data.spec import DatasetSpec

DIGITS = DatasetSpec(
    name="digits",
    title="Digits",
    classes=10,
    image_shape=(1, 8, 8),
    train_size=1297,
    test_size=500,
    mean=(0.3057,),
    std=(0.3762,),
    loader="kdbench.data.digits:digits",
    digest="43f6e072969b0189c32177e9c09a1a6d74152d4d61ed64dee0bea7d165da262f",
    files="nothing, it comes with scikit-learn",
    source="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, 1998 (test part, as in scikit-learn)",
    url="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    licence="CC BY 4.0",
    test_labels="ee4eaf8fc4a622737af59bbb6ff29100e07282266f4b24a4c399f6fb841f3971",
)

MNIST = DatasetSpec(
    name="mnist",
    title="MNIST",
    classes=10,
    image_shape=(1, 28, 28),
    train_size=60000,
    test_size=10000,
    mean=(0.1307,),
    std=(0.3081,),
    loader="kdbench.data.idx:mnist",
    digest="0dd3408fe9943301b2f352430c3434f580aab4af3cec0964538bbb7711aaff4a",
    files="MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or .gz",
    source="Y. LeCun, C. Cortes and C. Burges, The MNIST database of handwritten digits, 1998",
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    licence="CC BY-SA 3.0",
    test_labels="2fd8de6bdb8d11780b4b96dc57847bcfe6953f7c32aa48bfcd8237c3b7847243",
    hub="ylecun/mnist",
    torchvision="MNIST",
)

FASHION_MNIST = DatasetSpec(
    name="fashion_mnist",
    title="Fashion-MNIST",
    classes=10,
    image_shape=(1, 28, 28),
    train_size=60000,
    test_size=10000,
    mean=(0.2860,),
    std=(0.3530,),
    loader="kdbench.data.idx:fashion_mnist",
    digest="c60331cf772b7cff7a0350f92cf437731af616893e27e44fa40b8a8de55fcb1e",
    files="FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or .gz",
    source="H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, 2017, arXiv:1708.07747",
    url="https://github.com/zalandoresearch/fashion-mnist",
    licence="MIT",
    test_labels="d51d859896c55775b9e9e219b77ff03bcec1b6ac322f313544dc3f9e7bc94fae",
    hub="zalando-datasets/fashion_mnist",
    torchvision="FashionMNIST",
)

CIFAR10 = DatasetSpec(
    name="cifar10",
    title="CIFAR-10",
    classes=10,
    image_shape=(3, 32, 32),
    train_size=50000,
    test_size=10000,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    loader="kdbench.data.cifar:cifar10",
    digest=None,
    files="cifar-10-batches-bin/data_batch_{1..5}.bin and test_batch.bin (the binary version) or "
    "cifar-10-batches-py/data_batch_{1..5} and test_batch (the python version)",
    source="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    url="https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="none stated; the authors ask to cite the report",
    test_labels="cbb7365de8ed11f05cc4c3a1e7f78144127c5e851efd83762fb18202461230bb",
    hub="uoft-cs/cifar10",
    torchvision="CIFAR10",
    # As Apache MXNet's gluon data sets pin them (python/mxnet/gluon/data/vision/datasets.py).
    sha1={
        "data_batch_1.bin": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
        "data_batch_2.bin": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
        "data_batch_3.bin": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
        "data_batch_4.bin": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
        "data_batch_5.bin": "26e2849e66a845b7f1e4614ae70f4889ae604628",
        "test_batch.bin": "67eb016db431130d61cd03c7ad570b013799c88c",
    },
)

CIFAR10H = DatasetSpec(
    name="cifar10h",
    title="CIFAR-10's test images",
    classes=10,
    image_shape=(3, 32, 32),
    train_size=8000,
    test_size=2000,
    mean=(0.4954, 0.4859, 0.4507),
    std=(0.2463, 0.2425, 0.2611),
    loader="kdbench.data.cifar:cifar10h",
    digest=None,
    files="cifar-10-batches-bin/test_batch.bin (the binary version) or "
    "cifar-10-batches-py/test_batch (the python version)",
    source="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    url="https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="none stated; the authors ask to cite the report",
    test_labels="dcbbe8adfc1d6e9120cfab7009f56c52421e7f0cf8559e37a2ed565c6c53acf6",
    sha1={"test_batch.bin": "67eb016db431130d61cd03c7ad570b013799c88c"},
)

CIFAR100 = DatasetSpec(
    name="cifar100",
    title="CIFAR-100",
    classes=100,
    image_shape=(3, 32, 32),
    train_size=50000,
    test_size=10000,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    loader="kdbench.data.cifar:cifar100",
    digest="c6768ac0a73331cadc918fa25eeaee3eb37038acd5a6d568ffe3e47f02c79c4e",
    files="cifar-100-binary/{train,test}.bin (the binary version) or "
    "cifar-100-python/{train,test} (the python version)",
    source="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    url="https://www.cs.toronto.edu/~kriz/cifar.html",
    licence="none stated; the authors ask to cite the report",
    test_labels="80031c23f8300724c6fbc588e4bccbe41c6392041782148727bb497b0132c4ad",
    hub="uoft-cs/cifar100",
    torchvision="CIFAR100",
    sha1={
        "train.bin": "e207cd2e05b73b1393c74c7f5e7bea451d63e08e",
        "test.bin": "8fb6623e830365ff53cf14adec797474f5478006",
    },
)

IMAGENET = DatasetSpec(
    name="imagenet",
    title="ImageNet-1k",
    classes=1000,
    image_shape=(3, 224, 224),
    train_size=1281167,
    test_size=50000,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    loader="kdbench.data.imagefolder:imagefolder",
    digest=None,
    files="imagenet/{train,val}/<wnid>/*.JPEG, 1,000 class folders each (or train and val in the data root itself)",
    source="O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015",
    url="https://image-net.org/download.php",
    licence="ImageNet terms of access (non-commercial research and education)",
    # The classes in the order of their folders, 50 images each: what the validation part is.
    test_labels="df23e096aa01cb33685cc6ad69da23706e1c44c923773e009e01b41929f30652",
    hub="ILSVRC/imagenet-1k",
)

#: What is drawn by us has the level of an empty pixel for its mean, and the strength 1 of a feature for its deviation:
#: networks then see patches as the definition has them.
MULTIVIEW = DatasetSpec(
    name="multiview",
    title="Multi-view patches",
    classes=10,
    image_shape=(1, 28, 28),
    train_size=500,
    test_size=900,
    mean=(0.2,),
    std=(0.4,),
    loader="kdbench.data.multiview:multiview",
    digest="89bc9d4236a4e47d9d3cae12cafb1c00ca25c88d146511366c984197c8758367",
    files="nothing, it is drawn",
    source="drawn by kdbench after Z. Allen-Zhu and Y. Li, Towards Understanding Ensemble, Knowledge Distillation and "
    "Self-Distillation in Deep Learning, ICLR 2023, definitions 3.1 to 3.3: 28 patches of 28 pixels, own features of "
    "strength 1 to 1.4, those of each other class with probability 0.4 of 0.2 to 0.4, noise of 0.03",
    url="https://arxiv.org/abs/2012.09816",
    licence="Apache-2.0",
    test_labels="0e3a05053fb7940c7b6406d6979bf9afb071e18f799891b403e60aab1d098a3a",
    views="kdbench.data.multiview:views",
)

ONE_FEATURE = replace(
    MULTIVIEW,
    name="one_feature",
    title="One-feature patches",
    digest="f1bd131b370cbfd5f1d4915062cf510af43740829570e3c94b801bfe0948772b",
    source=MULTIVIEW.source.replace("0.03", "0.2") + "; with one feature a class, as a control",
)

BUILTIN = (DIGITS, MNIST, FASHION_MNIST, CIFAR10, CIFAR10H, CIFAR100, IMAGENET, MULTIVIEW, ONE_FEATURE)
