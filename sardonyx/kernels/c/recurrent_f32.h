// recurrent_f32.h -- the steps of recurrent layers in float.
#ifndef SARDONYX_RECURRENT_F32_H
#define SARDONYX_RECURRENT_F32_H

#include "recurrent.h"

// Panels [directions][gates * lanes / 16][hidden][16].
RECURRENT_INTERFACE(recurrent_f32, float, const float *recurrent;)

#endif
