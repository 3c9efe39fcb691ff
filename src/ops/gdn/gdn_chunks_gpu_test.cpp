#include "ops/gpu/gpu_test.h"
