// recurrent_bytes_f32.h -- the steps of recurrent layers in float, whose weights stay bytes: the bits of recurrent_f32.
//
//   recurrent   panels [directions][gates * lanes / 16][hidden][16] of bytes
//   scales      of each column, [directions][gates * lanes]: R' = bytes * scale, rounded to float
#ifndef SARDONYX_RECURRENT_BYTES_F32_H
#define SARDONYX_RECURRENT_BYTES_F32_H

#include "recurrent.h"

RECURRENT_INTERFACE(recurrent_bytes_f32, float, const int8_t *recurrent; const float *scales;)

#endif
