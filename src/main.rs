//! The program `rigl-xla`; everything is in the library.
use std::process::ExitCode;

fn main() -> ExitCode {
    rigl_xla::cli::main()
}
