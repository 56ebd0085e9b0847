// pool_kind.h -- what a pooling window becomes.
#ifndef SARDONYX_POOL_KIND_H
#define SARDONYX_POOL_KIND_H

enum { POOL_MAX, POOL_AVERAGE, POOL_AVERAGE_PADDED, POOL_GLOBAL_AVERAGE };

#endif
