//! A self-contained HTML page of pictures, embedded unchanged so that the browser decodes them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use crate::checkpoint::atomic;
use crate::cli::error::{Context, Result};
use crate::data::classes::Classes;
use crate::data::inspect::{class_name, for_each};
use crate::data::picture::{Format, Header};
use crate::data::tfrecord::labelled::Labelled;
use crate::data::tfrecord::shards::Shards;
use crate::report::escape;

const HEAD: &str = "<!doctype html>\n<meta charset=\"utf-8\">\n<title>Pictures</title>\n<style>\n\
body { font: 13px sans-serif; }\n\
section { display: flex; flex-wrap: wrap; gap: 8px; }\n\
figure { margin: 0; width: 160px; }\n\
img { width: 160px; height: 160px; object-fit: contain; background: #ddd; }\n\
figcaption { overflow-wrap: anywhere; }\n\
</style>\n";

/// Writes a page with the first `pictures` pictures of each set.
///
/// # Errors
/// Files that cannot be read, or I/O errors of the page.
pub fn write(path: &Path, sets: &[Shards], classes: Option<&Classes>, pictures: usize) -> Result<()> {
    let mut page = HEAD.to_owned();
    for set in sets {
        write!(page, "<h2>{}</h2>\n<section>\n", escaped(&set.name))?;
        let mut left = pictures;
        for_each(&set.files, &mut |record| {
            if left == 0 {
                return false;
            }
            left -= 1;
            if let Ok(example) = record.example()
                && let Ok(labelled) = Labelled::of(&example)
            {
                let filename = example.bytes("image/filename").unwrap_or_default();
                let class = class_name(classes, labelled.label, labelled.first);
                page += &figure(&labelled, class.unwrap_or_default(), &String::from_utf8_lossy(filename));
            }
            left > 0
        })?;
        page += "</section>\n";
    }
    atomic::write(path, |out| out.write_all(page.as_bytes())).context(path.display().to_string())
}

fn figure(labelled: &Labelled<'_>, class: &str, filename: &str) -> String {
    let kind = match Format::of(labelled.encoded) {
        Ok(Format::Png) => "png",
        _ => "jpeg",
    };
    let size = match Header::of(labelled.encoded) {
        Ok(header) => format!("{} x {}", header.height, header.width),
        Err(error) => escaped(&error.to_string()),
    };
    format!(
        "<figure><img alt=\"\" src=\"data:image/{kind};base64,{}\"><figcaption>{} {}: {size} {}</figcaption></figure>\n",
        base64(labelled.encoded),
        labelled.label,
        escaped(class),
        escaped(filename)
    )
}

fn escaped(text: &str) -> String {
    escape::name(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Base64 (RFC 4648), with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|i| u32::from(group.get(i).copied().unwrap_or(0)));
        let number = a << 16 | b << 8 | c;
        for i in 0..4 {
            text.push(match i <= group.len() {
                true => DIGITS[(number >> (18 - 6 * i)) as usize & 63].into(),
                false => '=',
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_published_one() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, want) in cases {
            assert_eq!(base64(bytes.as_bytes()), want);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }
}
