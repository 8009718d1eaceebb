//! Pictures as TensorFlow 1.15 standardised them (`tests/data/tf1/standardise.py`), bit for bit: by the evaluator, on the
//! host and on each of the three CPU plugin packages.
#![allow(clippy::unwrap_used)]

#[path = "common/plugins.rs"]
mod plugins;

use std::path::Path;

use hlo::{Computation, DType, Graph, Literal, Shape};
use pjrt::{Arg, ClientOptions, DeviceKind};
use rigl_xla::data::pixels::Preprocessing;
use rigl_xla::engine::options;

use plugins::in_own_process;

/// Pixels `u8[pictures, 32, 32, 3]`, and the standardised pictures.
fn recorded() -> (Literal, Vec<f32>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tf1/standardised.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let [pixels, values] = ["pixels", "values"].map(|name| tensors.tensor(name).unwrap());
    let values: Vec<f32> = values
        .data()
        .chunks(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    let picture = pixels.data().len() / pixels.shape()[0];
    let becomes = pixels.data().iter().enumerate();
    let becomes = becomes
        .map(|(i, &pixel)| values[i / picture * 256 + usize::from(pixel)])
        .collect();
    (Literal::new(pixels.shape(), pixels.data()), becomes)
}

/// Compares bits; zero has no sign here.
fn same(got: &[f32], want: &[f32], by: &str) {
    assert_eq!(got.len(), want.len(), "{by}");
    let differ = got
        .iter()
        .zip(want)
        .filter(|(a, b)| (*a + 0.0).to_bits() != (*b + 0.0).to_bits());
    assert_eq!(differ.count(), 0, "of {} values, {by}", got.len());
}

fn standardise(pixels: &Shape) -> Computation {
    let parameters = [("pixels".to_string(), pixels.clone())];
    Graph::function("standardise", &parameters, |_, x| {
        vec![Preprocessing::Cifar.apply(x[0])]
    })
    .unwrap()
}

#[test]
fn evaluator_and_host_match_tensorflow_bit_for_bit() {
    let (pixels, want) = recorded();
    assert_eq!(pixels.dims(), [20, 32, 32, 3]);
    let evaluated = standardise(pixels.shape())
        .evaluate(std::slice::from_ref(&pixels))
        .unwrap();
    same(&evaluated[0].to_vec::<f32>().unwrap(), &want, "evaluator");
    let mut images: Vec<f32> = pixels.bytes().iter().map(|&pixel| f32::from(pixel)).collect();
    images
        .chunks_mut(32 * 32 * 3)
        .for_each(|image| Preprocessing::Cifar.apply_on_host(image));
    same(&images, &want, "host");
}

#[test]
fn xla_cpu_pjrt() {
    in_own_process("xla_cpu_pjrt", "xla-cpu-pjrt", the_plugin_has_tensorflows_bits);
}

#[test]
fn lammps_jax_pjrt_cpu() {
    in_own_process(
        "lammps_jax_pjrt_cpu",
        "lammps-jax-pjrt-cpu",
        the_plugin_has_tensorflows_bits,
    );
}

#[test]
fn fastatomstruct_xla_cpu() {
    in_own_process(
        "fastatomstruct_xla_cpu",
        "fastatomstruct-xla-cpu",
        the_plugin_has_tensorflows_bits,
    );
}

fn the_plugin_has_tensorflows_bits() {
    let (pixels, want) = recorded();
    let plugin = rigl_xla::plugins::open(DeviceKind::Cpu, None).unwrap();
    let client = plugin.client(&ClientOptions::for_device(DeviceKind::Cpu)).unwrap();
    let program = standardise(pixels.shape()).to_bytes(&[]);
    let program = client.compile(&program, &options(DeviceKind::Cpu)).unwrap();
    let pixels = client.to_device(&pixels, 0).unwrap();
    let outputs = program.execute(vec![Arg::Donate(pixels)]).unwrap();
    same(
        &outputs[0].to_literal().unwrap().to_vec::<f32>().unwrap(),
        &want,
        "plugin",
    );
}

/// Includes sizes that fill no row of lanes, or fewer rows than one pass of the loop adds.
#[test]
fn the_host_agrees_with_graphs_of_every_size() {
    for [height, width, colours] in [[4, 4, 1], [5, 7, 3], [13, 29, 3], [96, 96, 3]] {
        let pixels: Vec<u8> = (0..height * width * colours).map(|i| (i * i % 251) as u8).collect();
        let image = Literal::new(&[1, height, width, colours], &pixels);
        let evaluated = standardise(&Shape::new(DType::U8, image.dims()))
            .evaluate(&[image])
            .unwrap();
        let mut expected: Vec<f32> = pixels.iter().map(|&pixel| f32::from(pixel)).collect();
        Preprocessing::Cifar.apply_on_host(&mut expected);
        same(
            &evaluated[0].to_vec::<f32>().unwrap(),
            &expected,
            &format!("{height} x {width} x {colours}"),
        );
    }
}
