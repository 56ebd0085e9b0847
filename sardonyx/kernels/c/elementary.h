// elementary.h -- every scalar function that generated loops may call, each as name_f32 and name_f64:
//
//   exp expm1 log log1p pow sqrt reciprocal   sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh
//   erf sigmoid softplus   floor ceil trunc round_even   fmod mod_floor   fabs copysign sign max min isnan isinf
//
// and the conversions between types (float16.h, convert.h). No libm, no tables, the same bits on every ISA; builds with
// SX_PORTABLE (multiply, then add) agree among themselves.
#ifndef SARDONYX_ELEMENTARY_H
#define SARDONYX_ELEMENTARY_H

#include "convert.h"
#include "elementary_base.h"
#include "elementary_f32.h"
#include "elementary_f64.h"
#include "elementary_trig_f64.h"
#include "float16.h"

#endif
