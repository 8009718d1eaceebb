#![allow(clippy::unwrap_used)]

use super::*;
use std::io::Write;

/// Peak memory of this process since it was last reset, in MB, where the system reports it.
fn peak_mb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().split(' ').next()?.parse::<u64>().ok().map(|kib| kib >> 10)
}

/// 64 GiB of zeros with a hole, and a row of ones at the end.
#[test]
fn reads_rows_of_files_larger_than_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.npy");
    let (rows, width) = (1 << 20, 1 << 14);
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}").into_bytes();
    header.resize(117, b' ');
    header.push(b'\n');
    let mut file = File::create(&path).unwrap();
    file.write_all(&[&b"\x93NUMPY\x01\x00v\x00"[..], &header].concat())
        .unwrap();
    let (start, row) = (128u64, 4 * width as u64);
    if file.set_len(start + rows as u64 * row).is_err() {
        return; // a file system without files of this size
    }
    let ones = vec![1f32; width];
    file.write_all_at(bytemuck::cast_slice(&ones), start + (rows as u64 - 1) * row)
        .unwrap();
    let input = Input {
        name: "x".into(),
        example: Shape::new(hlo::DType::F32, [width]),
    };
    // Resets the peak.
    let reset = std::fs::write("/proc/self/clear_refs", "5").is_ok();
    let before = peak_mb();
    let arrays = Arrays::open(&path, Split::Train, &[input]).unwrap();
    assert_eq!(arrays.len(), rows);
    let indices: Vec<i32> = (0..512).map(|i| i * 2047).chain([rows as i32 - 1]).collect();
    let read = arrays.gather(&indices, 513).unwrap();
    let values: Vec<f32> = read[0].to_vec().unwrap();
    assert_eq!(values.iter().sum::<f32>(), width as f32);
    assert_eq!(values[512 * width..], ones);
    if let (true, Some(before), Some(after)) = (reset, before, peak_mb()) {
        assert!(after < before + 1024, "{after} MB, was {before}");
    }
}
