//! Counts the scans of a JPEG without decoding it.

const START_OF_SCAN: u8 = 0xda;
const END_OF_IMAGE: u8 = 0xd9;

/// Scans of a JPEG up to its end marker. Markers are found as libjpeg finds them: what precedes one is skipped.
pub(super) fn count(bytes: &[u8]) -> usize {
    let (mut scans, mut rest) = (0, bytes.get(2..).unwrap_or_default());
    while let Some((marker, after)) = next_marker(rest) {
        if marker == END_OF_IMAGE {
            break;
        }
        scans += usize::from(marker == START_OF_SCAN);
        let Some((length, _)) = after.split_first_chunk() else {
            break;
        };
        rest = after
            .get(usize::from(u16::from_be_bytes(*length))..)
            .unwrap_or_default();
    }
    scans
}

/// The next marker that a segment follows, or the end, and the bytes after it. Within a scan's data `ff` stands for itself
/// before `00`, and for a restart before `d0` to `d7`.
fn next_marker(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let mut rest = bytes;
    loop {
        let at = rest.iter().position(|&byte| byte == 0xff)?;
        let marker = *rest.get(at + 1)?;
        // Any number of `ff` may precede a marker.
        rest = rest.get(at + if marker == 0xff { 1 } else { 2 }..)?;
        if !matches!(marker, 0 | 1 | 0xd0..=0xd8 | 0xff) {
            return Some((marker, rest));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn file(name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/tests/data/pictures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    #[test]
    fn counts_scans_of_both_kinds() {
        assert_eq!(count(&file("small.jpg")), 1);
        let progressive = count(&file("progressive.jpg"));
        assert!((5..20).contains(&progressive), "{progressive}");
        // What follows the end is no part of the picture, and a segment hides what it holds.
        let mut bytes = file("small.jpg");
        bytes.extend([0xff, 0xda, 0, 2, 0xff, 0xda, 0, 2]);
        assert_eq!(count(&bytes), 1);
        let hidden = [&bytes[..2], &[0xff, 0xe1, 0, 6, 0xff, 0xda, 0, 2], &bytes[2..]].concat();
        assert_eq!(count(&hidden), 1);
        assert_eq!(count(&[]), 0);
    }
}
