//! Small data sets, archives, lists and configurations damaged as by a bad disk or an adversary: a number selects the
//! mutation, and every one must be refused or read without a panic or excessive memory.
#![allow(clippy::unwrap_used, dead_code)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rigl_xla::config::Layers;
use rigl_xla::data::classes::Classes;
use rigl_xla::data::prepare::{Plan, Request};
use rigl_xla::data::{Split, cifar, idx};
use sparse::rng::stream;

use super::mutations::{Outcome, below, mutate};

/// A kind of input to mutate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An IDX file, plain or gzipped.
    Idx,
    /// A file of CIFAR-10.
    Cifar,
    /// A tar file of classes, with names of every kind.
    Tar,
    /// A list of classes.
    List,
    /// A configuration in TOML.
    Config,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Idx, Kind::Cifar, Kind::Tar, Kind::List, Kind::Config];
}

/// Valid files, and a folder for mutated ones.
pub struct Subject {
    dir: PathBuf,
    idx: Vec<u8>,
    cifar: Vec<u8>,
    tar: Vec<u8>,
    config: Vec<u8>,
}

const LIST: &[u8] = b"n01440764 tench, Tinca tinca\nn01443537\ngolden retriever\tdog\n\n";

impl Subject {
    /// `scratch` is a folder.
    pub fn new(scratch: &Path) -> Self {
        let dir = scratch.join("data");
        fs::create_dir_all(&dir).unwrap();
        let cifar = [
            [&[3][..], &[7; cifar::RECORD - 1]].concat(),
            [&[9][..], &[8; cifar::RECORD - 1]].concat(),
        ]
        .concat();
        // Without these each input would be noted as incomplete.
        (2..=5).for_each(|i| fs::write(dir.join(format!("data_batch_{i}.bin")), &cifar).unwrap());
        let header = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 5];
        let config = Layers::preset("mnist-rigl").unwrap().run().unwrap().to_toml().unwrap();
        Subject {
            idx: [&header[..], &[1; 40]].concat(),
            tar: tar(),
            config: config.into_bytes(),
            cifar,
            dir,
        }
    }

    /// Makes and reads one input.
    pub fn run(&self, kind: Kind, number: u64) -> Outcome {
        let mut random = stream(0, "mutation", &format!("{kind:?}"), number);
        let (good, name) = match kind {
            Kind::Idx => (&self.idx[..], "mutant.idx"),
            Kind::Cifar => (&self.cifar[..], "data_batch_1.bin"),
            Kind::Tar => (&self.tar[..], "mutant.tar"),
            Kind::List => (LIST, "mutant.txt"),
            Kind::Config => (&self.config[..], "mutant.toml"),
        };
        let mut bytes = good.to_vec();
        mutate(&mut random, &mut bytes, true);
        if kind == Kind::Idx && below(&mut random, 2) == 0 {
            bytes = gzip(&bytes);
            if below(&mut random, 2) == 0 {
                mutate(&mut random, &mut bytes, true);
            }
        }
        let path = self.dir.join(name);
        fs::write(&path, bytes).unwrap();
        let read = match kind {
            Kind::Idx => idx::read(&path, 3).ok().map(|array| array.bytes().len()),
            Kind::Cifar => cifar::load(&self.dir, Split::Train).ok().map(|set| set.len()),
            Kind::Tar => {
                let train = Some(path);
                let request = Request {
                    train,
                    ..Request::default()
                };
                Plan::new(&request).ok().map(|plan| plan.examples())
            }
            Kind::List => Classes::read(&path).ok().map(|classes| classes.len()),
            Kind::Config => Layers::preset("mnist-rigl").unwrap().file(&path).ok().map(|_| 1),
        };
        read.map_or(Outcome::Refused, Outcome::Accepted)
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// Entries with a short and a long name, a link, a folder, and a tar file of a class.
fn tar() -> Vec<u8> {
    let archive = |names: &[&str], inner: Option<Vec<u8>>| {
        let mut archive = tar::Builder::new(vec![]);
        let mut add = |name: &str, kind, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_entry_type(kind);
            archive.append_data(&mut header, name, bytes).unwrap();
        };
        names
            .iter()
            .for_each(|name| add(name, tar::EntryType::Regular, b"picture"));
        add("n03/", tar::EntryType::Directory, b"");
        inner
            .iter()
            .for_each(|inner| add("n07.tar", tar::EntryType::Regular, inner));
        archive.into_inner().unwrap()
    };
    let inner = archive(&["a.jpg", "b.png"], None);
    archive(
        &["n01/a.jpg", &format!("n02/{}.jpg", "long".repeat(40)), "readme"],
        Some(inner),
    )
}
