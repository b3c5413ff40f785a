"""Numbers and names that more than one module must agree on."""

# SAM works on a square of this side, in pixels; its image embedding has a stride of 16, its low-res masks of 4.
SAM_IMAGE_SIZE = 1024
SAM_EMBEDDING_STRIDE = 16
SAM_LOW_RES_STRIDE = 4
SAM_EMBEDDING_DIM = 256

# Mean and standard deviation of ImageNet in 0..255; SAM and DINOv2 were trained with the same ones.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)

# Text loss ignores this label; mask losses and metrics treat `IGNORE_LABEL` pixels as void.
IGNORE_INDEX = -100
IGNORE_LABEL = 255

SEG_TOKEN = "[SEG]"
REJ_TOKEN = "[REJ]"
IMAGE_TOKEN = "[IMG]"
NEW_TOKENS = (SEG_TOKEN, REJ_TOKEN, IMAGE_TOKEN)
