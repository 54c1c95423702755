#pragma once
// The manual page foreshadow(1), made from the parser: what `--help` says and what the page says have one
// source.
#include <CLI/CLI.hpp>
#include <string>

namespace foreshadow::app {

// In man(7) macros, for `man -l -`.
std::string man_page(const CLI::App& app, const std::string& version);

}  // namespace foreshadow::app
