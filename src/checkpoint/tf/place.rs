//! Resolves paths to checkpoint prefixes, and handles the `checkpoint` file that names a folder's newest prefix.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Error, Result, index_path, table, with_suffix};
use crate::checkpoint::{self, atomic};

const STATE: &str = "checkpoint";
const NEWEST: &str = "model_checkpoint_path:";

/// Maximum size of the `checkpoint` file, which lists paths.
const MAX_STATE_BYTES: u64 = 1 << 20;

/// Resolves a path to a prefix: a prefix itself, a file of a bundle, or a folder with a `checkpoint` file.
///
/// # Errors
/// [`Error::NoState`], [`Error::NoIndex`], [`Error::V1`], or I/O.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    let prefix = if path.is_dir() { newest(path)? } else { stem(path) };
    let index = index_path(&prefix);
    if index.is_file() {
        return Ok(prefix);
    }
    match [prefix.clone(), with_suffix(&prefix, "-00000-of-00001")]
        .into_iter()
        .find(|file| file.is_file() && is_table(file))
    {
        Some(path) => Err(Error::V1 { path }),
        None => Err(Error::NoIndex { prefix, index }),
    }
}

/// Strips the suffix of a bundle's file from a path.
fn stem(path: &Path) -> PathBuf {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let data = |at: usize| {
        let (count, shard) = name[at + ".data-".len()..].split_once("-of-")?;
        let number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        (number(count) && number(shard)).then_some(&name[..at])
    };
    let stem = [".index", ".meta"]
        .into_iter()
        .find_map(|suffix| name.strip_suffix(suffix));
    let stem = stem.or_else(|| name.rfind(".data-").and_then(data));
    stem.map_or_else(|| path.to_path_buf(), |stem| path.with_file_name(stem))
}

/// Whether a file ends with the footer of a table.
fn is_table(path: &Path) -> bool {
    let end = || {
        let mut file = crate::files::open(path)?;
        file.seek(SeekFrom::End(-48))?;
        let mut end = Vec::new();
        file.take(48).read_to_end(&mut end)?;
        std::io::Result::Ok(end)
    };
    end().is_ok_and(|end| table::is_table(&end))
}

/// The prefix named by a folder's `checkpoint` file. If it is absolute and missing, e.g. after the folder was moved,
/// uses the prefix of that name in the folder.
fn newest(folder: &Path) -> Result<PathBuf> {
    let path = folder.join(STATE);
    let no_state = || Error::NoState { folder: folder.into() };
    let file = crate::files::open(&path).map_err(|_| no_state())?;
    let mut bytes = Vec::new();
    file.take(MAX_STATE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(Error::io(&path))?;
    let text = String::from_utf8_lossy(&bytes);
    let named = text.lines().find_map(|line| line.trim().strip_prefix(NEWEST));
    let named = PathBuf::from(named.and_then(unquoted).ok_or_else(no_state)?);
    let prefix = folder.join(&named);
    match named.file_name() {
        Some(name) if named.is_absolute() && !index_path(&prefix).exists() => Ok(folder.join(name)),
        _ => Ok(prefix),
    }
}

/// Unescapes a string of protobuf's text format.
fn unquoted(text: &str) -> Option<String> {
    let text = text.trim();
    let quote = text.chars().next().filter(|&quote| quote == '"' || quote == '\'')?;
    let mut rest = text[1..].strip_suffix(quote)?.bytes().peekable();
    let mut bytes = Vec::new();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next()? {
            b'n' => bytes.push(b'\n'),
            b't' => bytes.push(b'\t'),
            b'r' => bytes.push(b'\r'),
            digit @ b'0'..=b'7' => {
                let mut value = u32::from(digit - b'0');
                for _ in 0..2 {
                    let Some(digit) = rest.next_if(|b| (b'0'..=b'7').contains(b)) else {
                        break;
                    };
                    value = 8 * value + u32::from(digit - b'0');
                }
                bytes.push(u8::try_from(value).ok()?);
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok()
}

/// Records a prefix as the newest in the `checkpoint` file of its folder, which `tf.train.latest_checkpoint` reads.
///
/// # Errors
/// [`checkpoint::Error::Save`]; the previous file is unchanged.
pub fn write_state(prefix: &Path) -> checkpoint::Result<()> {
    let name = prefix.file_name().unwrap_or_default().to_string_lossy();
    let name = name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let path = prefix.with_file_name(STATE);
    let text = format!("{NEWEST} \"{name}\"\nall_model_checkpoint_paths: \"{name}\"\n");
    atomic::write(&path, |out| out.write_all(text.as_bytes()))
        .map_err(|source| checkpoint::Error::Save { path, source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_of_a_bundle_stand_for_it() {
        for name in [
            "m.ckpt-7",
            "m.ckpt-7.index",
            "m.ckpt-7.meta",
            "m.ckpt-7.data-00001-of-00002",
        ] {
            assert_eq!(stem(&Path::new("a").join(name)), Path::new("a/m.ckpt-7"), "{name}");
        }
        for name in ["m.data-0-of-1", "m.data-00000-of-0000x", "x.data-", ""] {
            assert_eq!(stem(Path::new(name)), Path::new(name));
        }
    }

    #[test]
    fn the_newest_checkpoint_of_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let resolved = |state: &str| {
            fs::write(dir.path().join(STATE), state).unwrap();
            resolve(dir.path())
        };
        assert!(matches!(resolve(dir.path()), Err(Error::NoState { .. })));
        assert!(matches!(
            resolved("model_checkpoint_path: \"half"),
            Err(Error::NoState { .. })
        ));
        assert!(matches!(
            resolved("model_checkpoint_path: \"gone\"\n"),
            Err(Error::NoIndex { .. })
        ));
        let name = "m \"ä\\-7";
        fs::write(dir.path().join(format!("{name}.index")), "").unwrap();
        write_state(&dir.path().join(name)).unwrap();
        assert_eq!(resolve(dir.path()).unwrap(), dir.path().join(name));
        // TensorFlow's spelling, from a machine with the folder elsewhere.
        let moved = "model_checkpoint_path: \"/gone/m \\\"\\303\\244\\\\-7\"\nall_model_checkpoint_paths: \"x\"\n";
        assert_eq!(resolved(moved).unwrap(), dir.path().join(name));
    }
}
