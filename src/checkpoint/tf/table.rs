//! The sorted key-value table of an index file, in LevelDB's format.
//!
//! A table is a sequence of blocks and a footer of 48 bytes with the position of the index block, whose values are the
//! positions of the data blocks. Within a block a key stores only its difference from the key before it. The entries
//! are followed by restart points, which only look-ups need. Each block is followed by its compression (0 none, 1
//! Snappy) and a masked CRC-32C over both.

use std::borrow::Cow;

const MAGIC: u64 = 0xdb47_7524_8b80_fb57;
const FOOTER_BYTES: usize = 48;
const TRAILER_BYTES: usize = 5;
const RESTART_INTERVAL: usize = 16;

/// Maximum total size of all decompressed blocks, keys and values: a small file can expand to much more than its
/// length.
const MAX_CONTENT_BYTES: usize = 1 << 26;

/// Snappy's longest copy yields 64 bytes from 3.
const MAX_SNAPPY_RATIO: usize = 22;

/// Why bytes are not a valid table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damaged(pub String);

/// For `ok_or_else` and the like.
pub(super) fn damaged(reason: impl Into<String>) -> Damaged {
    Damaged(reason.into())
}

/// The stored checksum: TensorFlow masks CRC-32C, because checksummed data may contain checksums.
pub(crate) fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Whether a file ends with the footer of a table.
pub fn is_table(file: &[u8]) -> bool {
    file.len() >= FOOTER_BYTES && file.ends_with(&MAGIC.to_le_bytes())
}

/// Calls `entry` with each key and value, in key order. Verifies every checksum. Memory is bounded, whatever the bytes
/// claim.
///
/// # Errors
/// The fault of the bytes, or the first error of `entry`.
pub fn read(file: &[u8], mut entry: impl FnMut(&[u8], &[u8]) -> Result<(), Damaged>) -> Result<(), Damaged> {
    if !is_table(file) {
        let found = file.len();
        return Err(damaged(format!(
            "no table in {found} bytes: the last eight are not its signature"
        )));
    }
    let (blocks, mut footer) = file.split_at(file.len() - FOOTER_BYTES);
    let mut budget = Budget(MAX_CONTENT_BYTES);
    // The first block is the meta-index, which is empty in checkpoints: only its checksum matters.
    let [meta, index] = [Handle::read(&mut footer)?, Handle::read(&mut footer)?];
    if footer[..footer.len() - size_of_val(&MAGIC)]
        .iter()
        .any(|&byte| byte != 0)
    {
        return Err(damaged("no zeros at the end of the footer"));
    }
    meta.block(blocks, &mut budget)?;
    let index = index.block(blocks, &mut budget)?;
    let (mut last, mut end) = (None::<Vec<u8>>, 0);
    each_entry(&index, &mut Budget(MAX_CONTENT_BYTES), |_, mut value| {
        let handle = Handle::read(&mut value)?;
        // Overlapping blocks would let a small file expand without bound.
        if handle.offset < end {
            return Err(damaged(format!(
                "block at {}, expected none before {end}",
                handle.offset
            )));
        }
        end = handle.offset.saturating_add(handle.size);
        let data = handle.block(blocks, &mut budget)?;
        each_entry(&data, &mut budget, |key, value| {
            if last.as_deref().is_some_and(|last| last >= key) {
                return Err(damaged(format!("key '{}' out of order", key.escape_ascii())));
            }
            entry(key, value)?;
            let last = last.get_or_insert_default();
            last.clear();
            last.extend_from_slice(key);
            Ok(())
        })
    })
}

/// Remaining bytes of the limit.
struct Budget(usize);

impl Budget {
    fn take(&mut self, bytes: usize) -> Result<(), Damaged> {
        let left = self.0.checked_sub(bytes);
        self.0 = left.ok_or_else(|| damaged(format!("contents of more than {MAX_CONTENT_BYTES} bytes")))?;
        Ok(())
    }
}

/// Position of a block.
#[derive(Clone, Copy)]
struct Handle {
    offset: u64,
    size: u64,
}

impl Handle {
    fn read(bytes: &mut &[u8]) -> Result<Self, Damaged> {
        Ok(Handle {
            offset: varint(bytes)?,
            size: varint(bytes)?,
        })
    }

    fn write(self, out: &mut Vec<u8>) {
        put_varint(out, self.offset);
        put_varint(out, self.size);
    }

    /// Reads a block: verifies its checksum and decompresses it.
    fn block<'a>(self, blocks: &'a [u8], budget: &mut Budget) -> Result<Cow<'a, [u8]>, Damaged> {
        let Handle { offset, size } = self;
        let whole = || {
            let start = usize::try_from(offset).ok()?;
            let end = start.checked_add(usize::try_from(size).ok()?)?;
            blocks.get(start..end.checked_add(TRAILER_BYTES)?)
        };
        let total = blocks.len();
        let whole = whole().ok_or_else(|| damaged(format!("block of {size} bytes at {offset}, in {total} bytes")))?;
        let (checked, crc) = whole.split_at(whole.len() - 4);
        if masked(crc32c::crc32c(checked)).to_le_bytes() != crc {
            return Err(damaged(format!("the block at {offset} does not match its checksum")));
        }
        let (data, compression) = checked.split_at(checked.len() - 1);
        match compression {
            [0] => Ok(Cow::Borrowed(data)),
            [1] => {
                let found = snap::raw::decompress_len(data).map_err(|e| damaged(e.to_string()))?;
                if found > data.len().saturating_mul(MAX_SNAPPY_RATIO) {
                    return Err(damaged(format!("{} compressed bytes claim to be {found}", data.len())));
                }
                budget.take(found)?;
                let plain = snap::raw::Decoder::new().decompress_vec(data);
                plain.map(Cow::Owned).map_err(|e| damaged(e.to_string()))
            }
            other => Err(damaged(format!(
                "block compression {}, expected 0 or 1",
                other.escape_ascii()
            ))),
        }
    }
}

/// Calls `entry` with each key and value of a block.
fn each_entry(
    block: &[u8],
    budget: &mut Budget,
    mut entry: impl FnMut(&[u8], &[u8]) -> Result<(), Damaged>,
) -> Result<(), Damaged> {
    let restarts = block.len().checked_sub(4);
    let (head, count) = restarts
        .map(|at| block.split_at(at))
        .ok_or_else(|| damaged("block too short"))?;
    let count = count.try_into().map_or(0, u32::from_le_bytes) as usize;
    let entries = count.checked_mul(4).and_then(|bytes| head.len().checked_sub(bytes));
    let entries = entries.ok_or_else(|| damaged(format!("{count} restart points in {} bytes", block.len())))?;
    let (mut rest, mut key) = (&head[..entries], Vec::new());
    while !rest.is_empty() {
        let [shared, new, size] = [varint(&mut rest)?, varint(&mut rest)?, varint(&mut rest)?];
        let shared = usize::try_from(shared).ok().filter(|&shared| shared <= key.len());
        let shared = shared.ok_or_else(|| damaged("key shares more than there is"))?;
        let (new, value) = (take(&mut rest, new)?, take(&mut rest, size)?);
        key.truncate(shared);
        key.extend_from_slice(new);
        budget.take(key.len() + value.len())?;
        entry(&key, value)?;
    }
    Ok(())
}

fn take<'a>(bytes: &mut &'a [u8], count: u64) -> Result<&'a [u8], Damaged> {
    let split = usize::try_from(count)
        .ok()
        .and_then(|count| bytes.split_at_checked(count));
    let (taken, rest) =
        split.ok_or_else(|| damaged(format!("{count} bytes of an entry, of which {} are there", bytes.len())))?;
    *bytes = rest;
    Ok(taken)
}

/// Decodes a varint: 7-bit groups, lowest first.
fn varint(bytes: &mut &[u8]) -> Result<u64, Damaged> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or_else(|| damaged("number cut short"))?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(damaged("number of more than ten bytes"))
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Layout options of [`write()`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Size in bytes at which a block is closed.
    pub block_bytes: usize,
    /// Whether blocks are compressed with Snappy.
    pub snappy: bool,
}

/// TensorFlow's options.
impl Default for Layout {
    fn default() -> Self {
        Layout {
            block_bytes: 1 << 18,
            snappy: false,
        }
    }
}

/// Encodes a table from keys, which must be sorted, and values.
pub fn write<'a>(entries: impl IntoIterator<Item = (&'a [u8], &'a [u8])>, layout: Layout) -> Vec<u8> {
    let mut file = Vec::new();
    let (mut data, mut index) = (Block::new(RESTART_INTERVAL), Block::new(1));
    for (key, value) in entries {
        data.push(key, value);
        if data.bytes.len() >= layout.block_bytes {
            data.close(&mut file, &mut index, layout.snappy);
        }
    }
    if !data.restarts.is_empty() {
        data.close(&mut file, &mut index, layout.snappy);
    }
    finish(&mut file, index, layout.snappy);
    file
}

/// Appends everything after the data blocks.
fn finish(file: &mut Vec<u8>, index: Block, snappy: bool) {
    let meta = Block::new(1).append(file, snappy);
    let index = index.append(file, snappy);
    let mut footer = Vec::new();
    meta.write(&mut footer);
    index.write(&mut footer);
    footer.resize(FOOTER_BYTES - size_of_val(&MAGIC), 0);
    file.extend(footer);
    file.extend(MAGIC.to_le_bytes());
}

/// A block under construction.
struct Block {
    interval: usize,
    bytes: Vec<u8>,
    restarts: Vec<u32>,
    since_restart: usize,
    last: Vec<u8>,
}

impl Block {
    fn new(interval: usize) -> Self {
        Block {
            interval,
            bytes: vec![],
            restarts: vec![],
            since_restart: 0,
            last: vec![],
        }
    }

    fn push(&mut self, key: &[u8], value: &[u8]) {
        let restart = self.restarts.is_empty() || self.since_restart == self.interval;
        let mut shared = 0;
        if restart {
            self.restarts.push(self.bytes.len() as u32);
            self.since_restart = 0;
        } else {
            shared = self.last.iter().zip(key).take_while(|(a, b)| a == b).count();
        }
        let new = &key[shared..];
        for number in [shared, new.len(), value.len()] {
            put_varint(&mut self.bytes, number as u64);
        }
        self.bytes.extend_from_slice(new);
        self.bytes.extend_from_slice(value);
        self.last = key.to_vec();
        self.since_restart += 1;
    }

    /// Appends the block to the file, and its handle under its last key to the index. Then resets the block.
    fn close(&mut self, file: &mut Vec<u8>, index: &mut Block, snappy: bool) {
        let full = std::mem::replace(self, Block::new(self.interval));
        let (key, mut value) = (full.last.clone(), Vec::new());
        full.append(file, snappy).write(&mut value);
        index.push(&key, &value);
    }

    fn append(mut self, file: &mut Vec<u8>, snappy: bool) -> Handle {
        if self.restarts.is_empty() {
            self.restarts.push(0);
        }
        let count = self.restarts.len() as u32;
        let restarts = self.restarts.iter().chain([&count]);
        self.bytes.extend(restarts.flat_map(|n| n.to_le_bytes()));
        let start = file.len();
        // The encoder fails only above 4 GiB; such a block stays uncompressed.
        match snap::raw::Encoder::new().compress_vec(&self.bytes) {
            Ok(compressed) if snappy => file.extend(compressed.iter().chain([&1])),
            _ => file.extend(self.bytes.iter().chain([&0])),
        }
        let handle = Handle {
            offset: start as u64,
            size: (file.len() - 1 - start) as u64,
        };
        let crc = masked(crc32c::crc32c(&file[start..]));
        file.extend(crc.to_le_bytes());
        handle
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    type Pair = (Vec<u8>, Vec<u8>);

    fn all(file: &[u8]) -> Result<Vec<Pair>, Damaged> {
        let mut all = vec![];
        read(file, |key, value| {
            all.push((key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        Ok(all)
    }

    fn table(entries: &[Pair], layout: Layout) -> Vec<u8> {
        write(entries.iter().map(|(key, value)| (&key[..], &value[..])), layout)
    }

    /// Encodes a block of these bytes with its trailer, and a table of that block only.
    fn file_of(block: &[u8], compression: u8) -> Vec<u8> {
        let mut file = [block, &[compression]].concat();
        file.extend(masked(crc32c::crc32c(&file)).to_le_bytes());
        let mut value = vec![];
        let size = block.len() as u64;
        Handle { offset: 0, size }.write(&mut value);
        let mut index = Block::new(1);
        index.push(b"", &value);
        finish(&mut file, index, false);
        file
    }

    #[test]
    fn what_is_written_is_read_in_every_layout() {
        let entry = |i: usize| {
            let key = format!("layer{:04}/{}", i / 3, ["a", "b", "weights"][i % 3]);
            (key.into_bytes(), vec![i as u8; i % 40])
        };
        let mut entries: Vec<_> = (0..500).map(entry).collect();
        entries.insert(0, (vec![], b"header".to_vec()));
        for count in [0, 1, 2, 17, entries.len()] {
            for (block_bytes, snappy) in [(1, false), (300, false), (300, true), (1 << 18, true)] {
                let file = table(&entries[..count], Layout { block_bytes, snappy });
                assert!(is_table(&file));
                assert_eq!(all(&file).unwrap(), entries[..count], "{count} {block_bytes} {snappy}");
            }
        }
        let sizes = [false, true].map(|snappy| {
            table(
                &entries,
                Layout {
                    snappy,
                    ..Layout::default()
                },
            )
            .len()
        });
        assert!(sizes[1] < sizes[0], "{sizes:?}");
    }

    #[test]
    fn damage_is_told() {
        let file = table(&[(b"key".to_vec(), b"value".to_vec())], Layout::default());
        let message_of = |file: &[u8]| all(file).unwrap_err().0;
        assert!(message_of(&file[..47]).contains("no table in 47 bytes"));
        let mut flipped = file.clone();
        flipped[4] ^= 1;
        assert_eq!(message_of(&flipped), "the block at 0 does not match its checksum");
        for (block, compression, expected) in [
            (&b""[..], 0, "block too short"),
            (b"\0\0\0\0", 2, "block compression \\x02, expected 0 or 1"),
            (b"\xff\xff\xff\xff", 0, "4294967295 restart points in 4 bytes"),
            (b"\x01\0\0\0\0\0\0", 0, "key shares more than there is"),
            (b"\0\x05\0ab\0\0\0\0", 0, "5 bytes of an entry, of which 2 are there"),
            (b"\0\0\x80\0\0\0\0", 0, "number cut short"),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
                0,
                "number of more than ten bytes",
            ),
            (b"\0\x01\0b\0\x01\0a\0\0\0\0", 0, "key 'a' out of order"),
            (b"\0\0\0\0\0\0\0\0\0\0", 0, "key '' out of order"),
            (b"\xff\xff\xff\x7f\0", 1, "claim to be 268435455"),
            (b"\x0a\xff", 1, "snappy: "),
        ] {
            let message = message_of(&file_of(block, compression));
            assert!(message.contains(expected), "{block:?}: {message}");
        }
    }

    #[test]
    fn small_files_that_claim_much_are_refused() {
        // Each entry repeats the long previous key and adds a byte: 5 bytes that expand to 100 KB.
        let mut block = [&[0, 0xa0, 0x8d, 0x06, 0][..], &[b'a'; 100_000]].concat();
        for i in 0..1000u32 {
            block.extend([0xa0, 0x8d, 0x06, 4, 0]);
            block.extend(i.to_be_bytes());
        }
        block.extend([0; 4]);
        assert!(
            all(&file_of(&block, 0))
                .unwrap_err()
                .0
                .starts_with("contents of more than")
        );
    }

    #[test]
    fn blocks_may_not_overlap() {
        let file = table(&[(b"key".to_vec(), b"value".to_vec())], Layout::default());
        let mut index = Block::new(1);
        for key in [b"k", b"l"] {
            index.push(key, &[0, 19]);
        }
        let mut twice = file[..file.len() - FOOTER_BYTES].to_vec();
        finish(&mut twice, index, false);
        assert_eq!(all(&file).unwrap().len(), 1);
        assert_eq!(all(&twice).unwrap_err().0, "block at 0, expected none before 19");
    }
}
