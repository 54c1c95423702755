#include "app/commands.h"

int main(int argc, char** argv) {
  return foreshadow::app::run_program(argc, argv);
}
