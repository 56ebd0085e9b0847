// recurrent_f64.h -- the steps of recurrent layers in double.
#ifndef SARDONYX_RECURRENT_F64_H
#define SARDONYX_RECURRENT_F64_H

#include "recurrent.h"

// Panels [directions][gates * lanes / 16][hidden][16].
RECURRENT_INTERFACE(recurrent_f64, double, const double *recurrent;)

#endif
