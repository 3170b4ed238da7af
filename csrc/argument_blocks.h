// Blocks of arguments. A schema lists the arguments of an operator one by one; in C++ those that belong together are
// members of one struct, a block, and a function with a block in its signature takes it for the list of its members.
// unpacked<function> is that function as the dispatcher calls it; Operator calls an operator as such a function.
//
// A block is an aggregate with a member that names its members in the order of their declaration and of the schemas:
//     template <class Use> auto in_order(Use use) const { return use(first, second, third); }
//
// Everything here is resolved when it is compiled: arguments go on as references, and nothing is boxed or allocated.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

namespace vae_fused {
namespace blocks {

// A member as the dispatcher passes it.
template <class Member>
using Passed =
    std::conditional_t<std::is_same_v<Member, at::Tensor> || std::is_same_v<Member, std::optional<at::Tensor>>,
                       const Member&, Member>;

struct PassedTypes {
  template <class... Members>
  std::tuple<Passed<Members>...> operator()(const Members&...) const;
};

// Whether a type is a block.
template <class T>
concept Block = requires(const T& block) { block.in_order(PassedTypes{}); };

// What the dispatcher passes for one parameter: the parameter, or the members of a block.
template <class Parameter>
struct Listed {
  using type = std::tuple<Parameter>;
};

template <class Parameter>
  requires Block<std::remove_cvref_t<Parameter>>
struct Listed<Parameter> {
  using type = decltype(std::declval<Parameter>().in_order(PassedTypes{}));
};

template <class Parameter>
constexpr size_t kLength = std::tuple_size_v<typename Listed<Parameter>::type>;

template <class... Parameters>
using ListedAll = decltype(std::tuple_cat(std::declval<typename Listed<Parameters>::type>()...));

// Where the arguments of each parameter begin in the list of all.
template <class... Parameters>
constexpr std::array<size_t, sizeof...(Parameters)> begins() {
  std::array<size_t, sizeof...(Parameters)> result{};
  size_t next = 0, parameter = 0;
  ((result[parameter++] = next, next += kLength<Parameters>), ...);
  return result;
}

// One parameter from the list of all arguments.
template <class Parameter, size_t begin, class Arguments>
decltype(auto) take(Arguments& arguments) {
  using Value = std::remove_cvref_t<Parameter>;
  if constexpr (Block<Value>) {
    return [&]<size_t... i>(std::index_sequence<i...>) {
      return Value{std::get<begin + i>(arguments)...};
    }(std::make_index_sequence<kLength<Parameter>>());
  } else {
    return std::get<begin>(std::move(arguments));
  }
}

template <auto function, class Signature, class Arguments>
struct Unpacked;

template <auto function, class Result, class... Parameters, class... Arguments>
struct Unpacked<function, Result (*)(Parameters...), std::tuple<Arguments...>> {
  static Result call(Arguments... arguments) {
    std::tuple<Arguments&&...> list(std::forward<Arguments>(arguments)...);
    return [&]<size_t... i>(std::index_sequence<i...>) -> Result {
      return function(take<Parameters, begins<Parameters...>()[i]>(list)...);
    }(std::index_sequence_for<Parameters...>());
  }
};

template <auto function, class Result, class... Parameters>
constexpr auto unpack(Result (*)(Parameters...)) {
  return &Unpacked<function, Result (*)(Parameters...), ListedAll<Parameters...>>::call;
}

// The references to one argument, or to the members of a block.
template <class Argument>
auto spread(Argument&& argument) {
  if constexpr (Block<std::remove_cvref_t<Argument>>) {
    return argument.in_order([](const auto&... members) { return std::tie(members...); });
  } else {
    return std::tuple<Argument&&>(std::forward<Argument>(argument));
  }
}

// The function type that the dispatcher has for these arguments.
template <class Result, class Arguments>
struct Function;

template <class Result, class... Arguments>
struct Function<Result, std::tuple<Arguments...>> {
  using type = Result(Arguments...);
};

// A string literal as an argument of a template.
template <size_t length>
struct Literal {
  char text[length];
  constexpr Literal(const char (&literal)[length]) { std::copy_n(literal, length, text); }
};

template <size_t>
using OneTensor = at::Tensor;

template <size_t... i>
std::tuple<OneTensor<i>...> tensors(std::index_sequence<i...>);

}  // namespace blocks

// What an operator with several results returns: a tuple of so many tensors.
template <size_t count>
using Tensors = decltype(blocks::tensors(std::make_index_sequence<count>()));

// What TORCH_LIBRARY_IMPL registers for a function whose signature may have blocks.
template <auto function>
constexpr auto unpacked = blocks::unpack<function>(function);

// An operator of this package, "name" or "name.overload", called through the dispatcher.
template <blocks::Literal name, class Signature>
struct Operator;

template <blocks::Literal name, class Result, class... Parameters>
struct Operator<name, Result(Parameters...)> {
  Result operator()(Parameters... parameters) const {
    static const auto handle = find();
    return std::apply(
        [](auto&&... arguments) -> Result { return handle.call(std::forward<decltype(arguments)>(arguments)...); },
        std::tuple_cat(blocks::spread(std::forward<Parameters>(parameters))...));
  }

 private:
  static auto find() {
    using Signature = typename blocks::Function<Result, blocks::ListedAll<Parameters...>>::type;
    const std::string_view whole = name.text;
    const size_t dot = whole.find('.');
    const std::string base = "vae_fused::" + std::string(whole.substr(0, dot));
    const std::string overload(dot == whole.npos ? "" : whole.substr(dot + 1));
    const auto schema = c10::Dispatcher::singleton().findSchemaOrThrow(base.c_str(), overload.c_str());
    return schema.template typed<Signature>();
  }
};

}  // namespace vae_fused
