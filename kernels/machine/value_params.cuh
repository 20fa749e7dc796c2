// The parameter block of generations whose values may be wider or narrower than keys: what the
// others take, and behind it how wide values are. Mirrored by `sdpa_core::ExtensionParams`; a test
// there reads the FIELD_AT line below and holds both to the same bytes.
#pragma once

#include "machine/extended_params.cuh"

struct ValueParams : ExtendedParams {
    unsigned long long of_pages[3];  // of kernels that take keys in pages
    long long value_dim;  // elements of a value and of a row of the output, a multiple of 8;
                          // kernels pad it with zeros to their own tile
};

// NVRTC has no offsetof; __INTADDR__ is what its front end makes offsetof of elsewhere.
#define FIELD_AT(field, offset) \
    static_assert(__INTADDR__(&static_cast<ValueParams*>(nullptr)->field) == offset, #field)
FIELD_AT(value_dim, 280);
#undef FIELD_AT
static_assert(sizeof(ValueParams) == 288, "ValueParams");
