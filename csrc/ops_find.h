#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace vae_fused::ops {

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const char* name, const char* overload = "") {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).typed<Signature>();
}

}  // namespace vae_fused::ops
