// naive_window.c -- what the convolution and pooling kernels must give bit for bit: plain loops over plain layouts,
// each output in the order that the kernels state. Shares no code with them but SX_PORTABLE's meaning.
#include <stddef.h>
#include <stdint.h>

#ifdef SX_PORTABLE
#define MULTIPLY_ADD(x, y, z) ((x) * (y) + (z))
#else
#define MULTIPLY_ADD(x, y, z) __builtin_fmaf(x, y, z)
#endif

#define PAIRS (-2)

typedef struct {
    int64_t n, c, ih, iw, o, oh, ow, kh, kw, stride_h, stride_w, dilation_h, dilation_w;
    int64_t pad_top, pad_left, pad_bottom, pad_right, groups;
    int64_t order;  // channels taken together at each tap: 16 (NCHW16c), 1 (NCHW); PAIRS: see naive_conv
} window;

static int64_t row(const window *a, int64_t oh, int64_t kh) {
    return oh * a->stride_h + kh * a->dilation_h - a->pad_top;
}
static int64_t column(const window *a, int64_t ow, int64_t kw) {
    return ow * a->stride_w + kw * a->dilation_w - a->pad_left;
}
static int inside(const window *a, int64_t ih, int64_t iw) { return ih >= 0 && ih < a->ih && iw >= 0 && iw < a->iw; }

// In the order PAIRS the sums of a row of taps go over the channels, from the output's own pair on: number c is, of the
// output with number o in its group, channel (o & ~1) ^ c.
static void naive_conv_pairs(const window *a, const float *x, const float *w, float *y) {
    int64_t channels = a->c / a->groups;
    for (int64_t n = 0; n < a->n; n++)
        for (int64_t o = 0; o < a->o; o++)
            for (int64_t oh = 0; oh < a->oh; oh++)
                for (int64_t ow = 0; ow < a->ow; ow++) {
                    float sum = 0;
                    for (int64_t kh = 0; kh < a->kh; kh++)
                        for (int64_t c = 0; c < channels; c++)
                            for (int64_t kw = 0; kw < a->kw; kw++) {
                                int64_t ih = row(a, oh, kh), iw = column(a, ow, kw), own = (o % channels & ~1) ^ c;
                                int64_t from = o / channels * channels + own;
                                int64_t at = ((n * a->c + from) * a->ih + ih) * a->iw + iw;
                                float value = inside(a, ih, iw) ? x[at] : 0;
                                sum = MULTIPLY_ADD(value, w[((o * channels + own) * a->kh + kh) * a->kw + kw], sum);
                            }
                    y[((n * a->o + o) * a->oh + oh) * a->ow + ow] = sum;
                }
}

void naive_conv(const window *a, const float *x, const float *w, float *y) {
    int64_t channels = a->c / a->groups;
    if (a->order == PAIRS) {
        naive_conv_pairs(a, x, w, y);
        return;
    }
    for (int64_t n = 0; n < a->n; n++)
        for (int64_t o = 0; o < a->o; o++)
            for (int64_t oh = 0; oh < a->oh; oh++)
                for (int64_t ow = 0; ow < a->ow; ow++) {
                    int64_t first = o / (a->o / a->groups) * channels;
                    float sum = 0;
                    for (int64_t block = 0; block < channels; block += a->order)
                        for (int64_t kh = 0; kh < a->kh; kh++)
                            for (int64_t kw = 0; kw < a->kw; kw++)
                                for (int64_t c = block; c < block + a->order && c < channels; c++) {
                                    int64_t ih = row(a, oh, kh), iw = column(a, ow, kw);
                                    int64_t at = ((n * a->c + first + c) * a->ih + ih) * a->iw + iw;
                                    float value = inside(a, ih, iw) ? x[at] : 0;
                                    sum = MULTIPLY_ADD(value, w[((o * channels + c) * a->kh + kh) * a->kw + kw], sum);
                                }
                    y[((n * a->o + o) * a->oh + oh) * a->ow + ow] = sum;
                }
}

// kind: 0 maximum, 1 average of the taps inside, 2 average with padding.
void naive_pool(const window *a, int64_t kind, const float *x, float *y) {
    for (int64_t plane = 0; plane < a->n * a->c; plane++)
        for (int64_t oh = 0; oh < a->oh; oh++)
            for (int64_t ow = 0; ow < a->ow; ow++) {
                float best = -__builtin_inff(), sum = 0;
                int64_t taps = 0, padded = 0;
                for (int64_t kh = 0; kh < a->kh; kh++)
                    for (int64_t kw = 0; kw < a->kw; kw++) {
                        int64_t ih = row(a, oh, kh), iw = column(a, ow, kw);
                        padded += ih < a->ih + a->pad_bottom && iw < a->iw + a->pad_right;
                        if (!inside(a, ih, iw)) continue;
                        float value = x[(plane * a->ih + ih) * a->iw + iw];
                        taps++;
                        sum += value;
                        if (value > best || value != value) best = best != best ? best : value;
                    }
                y[(plane * a->oh + oh) * a->ow + ow] = kind == 0 ? best : sum / (float)(kind == 1 ? taps : padded);
            }
}

// An epilogue that records what it was given, and then changes it: operands are y, a copy of y, and a count for each
// element; dims are channel blocks, positions, elements from image to image.
void record(void *const *operands, const int64_t *dims, int64_t i0, int64_t i1, int64_t lo2, int64_t hi2, int64_t lo3,
            int64_t hi3) {
    int64_t start = i0 * dims[2] + i1 * dims[1] * 16;
    for (int64_t p = lo2; p < hi2; p++)
        for (int64_t l = lo3; l < hi3; l++) {
            float *y = (float *)operands[0] + start + p * 16 + l;
            ((float *)operands[1])[start + p * 16 + l] = *y;
            ((int32_t *)operands[2])[start + p * 16 + l]++;
            *y = 42;
        }
}
