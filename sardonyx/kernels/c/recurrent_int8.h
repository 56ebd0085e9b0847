// recurrent_int8.h -- the steps of recurrent layers in float, whose products are exact sums of bytes.
//
//   h R' = h_scale * scale[column] * sum over k of (bytes[k] - h_zero) * (R[k][column] - zero)
//
// Bytes are round(h / h_scale) + h_zero, kept within 0 .. 255, by the range of h in all batch elements together, and 0: high and
// low give h_scale = (high - low) / 255 (1 / 255 if they are equal), h_zero = round(-low / h_scale). A sequence that was over
// before the last step counts no more. Where h holds NaNs or infinities, every sum is NaN.
//
//   recurrent   panels [directions][gates * lanes / 16][ceil(hidden / 4)][16][4], less 128 if unsigned; 0 beyond `hidden`;
//               960 bytes beyond them can be read
//   sums        of each column as packed, [directions][gates * lanes]
//   scales      of each column, likewise
//   zeros       of each column, likewise, less 128 if R is unsigned; NULL: 0
#ifndef SARDONYX_RECURRENT_INT8_H
#define SARDONYX_RECURRENT_INT8_H

#include "recurrent.h"

RECURRENT_INTERFACE(recurrent_int8, float,
                    const int8_t *recurrent; const int32_t *sums; const float *scales; const int32_t *zeros;)

#endif
