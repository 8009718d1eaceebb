//! Scans the markers of a JPEG without decoding it.

const START_OF_SCAN: u8 = 0xda;
const END_OF_IMAGE: u8 = 0xd9;
const ADOBE: u8 = 0xee;
/// Length of a complete Adobe marker.
const ADOBE_BYTES: usize = 12;

/// Number of scans of a JPEG up to its end marker.
pub(super) fn count(bytes: &[u8]) -> usize {
    segments(bytes).filter(|(marker, _)| *marker == START_OF_SCAN).count()
}

/// Whether an Adobe program wrote a JPEG, whose inks are then inverted: a complete Adobe marker precedes the first
/// scan.
pub(super) fn has_adobe(bytes: &[u8]) -> bool {
    let before = segments(bytes).take_while(|(marker, _)| *marker != START_OF_SCAN);
    let mut markers = before.filter(|(marker, _)| *marker == ADOBE);
    markers.any(|(_, data)| data.len() >= ADOBE_BYTES && data.starts_with(b"Adobe"))
}

/// Iterates over markers and their segments, up to the end marker. Skips bytes before a marker, as libjpeg does.
fn segments(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = bytes.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (marker, after) = next_marker(rest).filter(|(marker, _)| *marker != END_OF_IMAGE)?;
        let (length, _) = after.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes(*length));
        rest = after.get(length..).unwrap_or_default();
        Some((marker, after.get(2..length).unwrap_or_default()))
    })
}

/// Returns the next marker with a segment, or the end marker, and the bytes after it. In scan data, `ff 00` is a
/// literal `ff` and `ff d0` to `ff d7` are restarts.
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
        std::fs::read(format!("{}/../tests/data/pictures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    #[test]
    fn counts_scans_of_both_kinds() {
        assert_eq!(count(&file("small.jpg")), 1);
        let progressive = count(&file("progressive.jpg"));
        assert!((5..20).contains(&progressive), "{progressive}");
        // Data after the end marker is not part of the picture; markers within a segment are data.
        let mut bytes = file("small.jpg");
        bytes.extend([0xff, 0xda, 0, 2, 0xff, 0xda, 0, 2]);
        assert_eq!(count(&bytes), 1);
        let hidden = [&bytes[..2], &[0xff, 0xe1, 0, 6, 0xff, 0xda, 0, 2], &bytes[2..]].concat();
        assert_eq!(count(&hidden), 1);
        assert_eq!(count(&[]), 0);
        assert!(has_adobe(&file("cmyk.jpg")) && !has_adobe(&file("cmyk_plain.jpg")));
    }
}
