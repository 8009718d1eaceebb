//! `rigl-xla completions` and `rigl-xla man`: files for shells and for man, from the definitions of the flags.

use std::path::PathBuf;

use clap_complete::Generator;
use clap_complete::aot::{Bash, Fish, Zsh};
use clap_complete_nushell::Nushell;

use super::help;
use crate::cli::error::{Context, Result};

/// Arguments of `completions`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Shells with completions.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Shell {
    Bash,
    Zsh,
    Fish,
    Nushell,
}

/// Arguments of `man`.
#[derive(clap::Args, Debug)]
pub struct ManArgs {
    /// Folder to write the pages to, one per command
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Runs `completions`.
///
/// # Errors
/// I/O.
pub fn run(args: &Args) -> Result<()> {
    let script = match args.shell {
        Shell::Bash => bash(),
        Shell::Zsh => script(Zsh),
        Shell::Fish => script(Fish),
        Shell::Nushell => script(Nushell),
    };
    super::write_output(&script)
}

/// clap_complete 4.6 replaces hyphens of names in two ways, which must agree for its functions to be found.
fn bash() -> Vec<u8> {
    let script = String::from_utf8_lossy(&script(Bash)).into_owned();
    let command = help::completed();
    let names = std::iter::once("rigl-xla").chain(command.get_subcommands().map(clap::Command::get_name));
    let agree = |script: String, name: &str| script.replace(&name.replace('-', "__subcmd__"), &name.replace('-', "__"));
    names.filter(|name| name.contains('-')).fold(script, agree).into_bytes()
}

fn script(shell: impl Generator) -> Vec<u8> {
    let mut out = vec![];
    clap_complete::generate(shell, &mut help::completed(), "rigl-xla", &mut out);
    out
}

/// Runs `man`.
///
/// # Errors
/// A folder that cannot be written.
pub fn man(args: &ManArgs) -> Result<()> {
    let folder = &args.folder;
    std::fs::create_dir_all(folder).context(folder.display().to_string())?;
    clap_mangen::generate_to(help::command(), folder).context(folder.display().to_string())
}
