import pytest
import torch
from torch.nn import functional as F

from mllmseg.models.tiny_vit import Attention, ConvBN, LayerNorm2d, TinyViT, TinyViTBlock


def randomise(module):
    generator = torch.Generator().manual_seed(0)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            positive = "running_var" in name
            value.copy_(
                torch.rand(value.shape, generator=generator) + 0.5
                if positive
                else torch.randn(value.shape, generator=generator) * 0.3
            )
    return module.eval()


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 2, 1), (3, 1, 8)])
def test_conv_and_norm_fold_exactly(kernel, stride, groups):
    layer = randomise(ConvBN(8, 8, kernel, stride, groups))
    x = torch.randn(2, 8, 9, 7)
    torch.testing.assert_close(layer(x), layer.bn(layer.c(x)))


def test_attention_bias_depends_on_the_absolute_offset():
    window = 3
    attention = randomise(Attention(8, 2, window))
    x = torch.randn(4, window * window, 8)
    query, key, value = attention.qkv(attention.norm(x)).view(4, 9, 2, 3, 4).unbind(3)
    logits = torch.einsum("bqmc,bkmc->bmqk", query, key) / 2
    for q in range(9):
        for k in range(9):
            offset = abs(q // 3 - k // 3) * window + abs(q % 3 - k % 3)
            logits[:, :, q, k] += attention.attention_biases[:, offset]
    expected = torch.einsum("bmqk,bkmc->bqmc", logits.softmax(-1), value).reshape(4, 9, 8)
    torch.testing.assert_close(attention(x), attention.proj(expected))


def test_incomplete_windows_are_filled_with_zeros():
    block = randomise(TinyViTBlock(8, 2, 4))
    x = torch.randn(1, 8, 6, 5)
    padded = F.pad(x, (0, 3, 0, 2))
    windows = [padded[:, :, i : i + 4, j : j + 4] for i in (0, 4) for j in (0, 4)]
    tokens = torch.cat([window.flatten(2).transpose(1, 2) for window in windows])
    out = block.attn(tokens).transpose(1, 2).view(4, 8, 4, 4)
    joined = torch.cat([torch.cat([out[0], out[1]], -1), torch.cat([out[2], out[3]], -1)], -2)[:, :6, :5]
    torch.testing.assert_close(block._attend(x.permute(0, 2, 3, 1))[0].permute(2, 0, 1), joined)


def test_layer_norm_is_over_channels():
    norm = LayerNorm2d(6)
    x = torch.randn(2, 6, 3, 4) * 5 + 2
    out = norm(x)
    torch.testing.assert_close(out.mean(1), torch.zeros(2, 3, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(1, correction=0), torch.ones(2, 3, 4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_stride_is_sixteen(size):
    encoder = TinyViT().eval()
    with torch.no_grad():
        assert encoder(torch.zeros(2, 3, *size)).shape == (2, 256, size[0] // 16, size[1] // 16)


def test_images_of_a_batch_do_not_mix(mobile_sam):
    x = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        both = mobile_sam.image_encoder(x)
        torch.testing.assert_close(both[1:], mobile_sam.image_encoder(x[1:]), atol=1e-4, rtol=1e-4)
