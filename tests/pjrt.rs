//! Plugins, transfers, compilation and execution, on each of the three CPU plugin packages.
//!
//! Two copies of XLA must not share a process, so each package's test runs itself again in a separate process. A
//! package that is unavailable fails its test: nothing is skipped.
#![allow(clippy::unwrap_used)]

#[path = "common/plugins.rs"]
mod plugins;

use half::{bf16, f16};
use hlo::{Alias, Computation, DType, Graph, Literal, Reducer, Shape, Tensor, proto};
use pjrt::{Arg, Client, ClientOptions, CompileOptions, DeviceKind, Executable, OptionValue};
use prost::Message;
use rigl_xla::plugins::{Cache, CacheOutcome};

use plugins::in_own_process;

#[test]
fn xla_cpu_pjrt() {
    in_own_process("xla_cpu_pjrt", "xla-cpu-pjrt", || suite("xla-cpu-pjrt", (0, 81)));
}

#[test]
fn lammps_jax_pjrt_cpu() {
    in_own_process("lammps_jax_pjrt_cpu", "lammps-jax-pjrt-cpu", || {
        suite("lammps-jax-pjrt-cpu", (0, 115))
    });
}

#[test]
fn fastatomstruct_xla_cpu() {
    in_own_process("fastatomstruct_xla_cpu", "fastatomstruct-xla-cpu", || {
        suite("fastatomstruct-xla-cpu", (0, 106))
    });
}

fn suite(package: &str, version: (i32, i32)) {
    let plugin = rigl_xla::plugins::open(DeviceKind::Cpu, None).unwrap();
    assert_eq!(plugin.api_version(), version, "{package}");
    assert_eq!(
        pjrt::Plugin::load(plugin.path()).unwrap().path(),
        plugin.path(),
        "loaded once"
    );
    assert!(plugin.coverage().missing.is_empty(), "{:?}", plugin.coverage());
    assert!(plugin.attributes().unwrap().contains_key("stablehlo_current_version"));
    assert_eq!(plugin.fingerprint().unwrap().len(), 64);

    let options = ClientOptions::for_device(DeviceKind::Cpu).with_cpu_devices(8);
    let client = plugin.client(&options).unwrap();
    assert_eq!(client.platform_name().unwrap(), "cpu");
    let devices = client.devices().unwrap();
    assert_eq!(
        devices.iter().map(|d| d.id).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4, 5, 6, 7]
    );

    matrix_product(&client);
    transfers_keep_every_bit(&client);
    transfers_outlive_their_host_arrays(&client);
    kept_arguments_stay_and_donated_ones_are_reused(&client);
    wrong_arguments_are_named(&client);
    wrong_programs_are_refused(&client);
    statistics_and_optimized_program(&client, version);
    memory_is_given_back(&client);
    executables_survive_serialization(&client);
    the_cache_hits_misses_and_heals(&client);
    options_reach_the_compiler(&client);
    replicas_reduce_over_all_devices(&client);
    buffers_cross_threads_and_outlive_the_client(client);
}

/// `build`'s outputs over parameters of `shapes`.
fn computation(shapes: &[Shape], build: impl for<'g> FnOnce(&[Tensor<'g>]) -> Vec<Tensor<'g>>) -> Computation {
    let g = Graph::new("probe");
    let parameters: Vec<Tensor<'_>> = shapes.iter().map(|s| g.parameter("p", s.clone())).collect();
    let outputs: Vec<_> = build(&parameters).iter().map(Tensor::output).collect();
    g.build(&outputs).unwrap()
}

/// `(a + b, a)` over vectors of `n` numbers, the sum taking over the memory of `a`'s parameter.
fn addition(n: usize) -> Vec<u8> {
    let vector = Shape::new(DType::F32, [n]);
    let alias = Alias {
        output: 0,
        parameter: 0,
    };
    computation(&[vector.clone(), vector], |p| vec![p[0] + p[1]]).to_bytes(&[alias])
}

fn compile(client: &Client, program: &[u8]) -> Executable {
    client.compile(program, &CompileOptions::default()).unwrap()
}

fn vector(values: &[f32]) -> Literal {
    Literal::new(&[values.len()], values)
}

fn matrix_product(client: &Client) {
    let program = computation(&[Shape::new(DType::F32, [2, 3]), Shape::new(DType::F32, [3, 2])], |p| {
        vec![p[0].matmul(p[1])]
    });
    let executable = compile(client, &program.to_bytes(&[]));
    let x = client
        .to_device(&Literal::new(&[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]), 0)
        .unwrap();
    let y = client
        .to_device(&Literal::new(&[3, 2], &[1.0f32, 0.0, 0.0, 1.0, 1.0, 1.0]), 0)
        .unwrap();
    let out = executable.execute(vec![Arg::Keep(&x), Arg::Keep(&y)]).unwrap();
    assert_eq!(
        out[0].to_literal().unwrap(),
        Literal::new(&[2, 2], &[4.0f32, 5.0, 10.0, 11.0])
    );
}

fn transfers_keep_every_bit(client: &Client) {
    let arrays = [
        Literal::from_bools(&[2, 2], &[true, false, false, true]),
        Literal::new(&[2], &[i32::MIN, i32::MAX]),
        Literal::new(&[2], &[i64::MIN, i64::MAX]),
        Literal::new(&[3], &[0u8, 1, 255]),
        Literal::new(&[2], &[1u32, u32::MAX]),
        Literal::new(&[2], &[1u64, u64::MAX]),
        Literal::new(&[2], &[f16::from_f32(0.1), f16::NEG_INFINITY]),
        Literal::new(&[2], &[bf16::from_f32(0.1), bf16::MAX]),
        Literal::new(
            &[2, 1, 3],
            &[
                0.1f32,
                -0.0,
                f32::MIN_POSITIVE,
                f32::INFINITY,
                1e-45,
                f32::from_bits(0x7fc0_1234),
            ],
        ),
        Literal::new(&[1], &[0.1f64]),
        Literal::scalar(7i64),
        Literal::zeros(Shape::new(DType::F32, [0, 5])),
    ];
    assert!(
        DType::ALL
            .iter()
            .all(|dtype| arrays.iter().any(|a| a.dtype() == *dtype))
    );
    for array in &arrays {
        let last = client.device_count() - 1;
        for buffer in [
            client.to_device(array, 0).unwrap(),
            client.to_device_async(array.clone(), last).unwrap(),
        ] {
            assert_eq!(buffer.shape(), array.shape());
            assert!(
                buffer.device_bytes().unwrap() >= array.shape().bytes(),
                "{}",
                array.shape()
            );
            assert_eq!(&buffer.to_literal().unwrap(), array);
        }
    }
    let error = client.to_device(&arrays[0], 8).unwrap_err().to_string();
    assert_eq!(
        error,
        "device 8 does not exist: the client has 8 addressable devices, numbered from 0"
    );
}

fn transfers_outlive_their_host_arrays(client: &Client) {
    let values: Vec<f32> = (0..1 << 20).map(|i| i as f32).collect();
    let buffers: Vec<_> = (0..8)
        .map(|_| client.to_device_async(vector(&values), 0).unwrap())
        .collect();
    let pending: Vec<_> = buffers.iter().map(|b| b.to_literal_async().unwrap()).collect();
    drop(buffers[0].to_literal_async().unwrap());
    for (buffer, pending) in buffers.iter().zip(pending) {
        assert_eq!(pending.wait().unwrap().to_vec::<f32>().unwrap(), values);
        buffer.wait().unwrap();
        assert!(buffer.ready().unwrap());
    }
}

fn kept_arguments_stay_and_donated_ones_are_reused(client: &Client) {
    let executable = compile(client, &addition(1 << 16));
    let ones = client.to_device(&vector(&[1.0; 1 << 16]), 0).unwrap();
    let kept = client.to_device(&vector(&[5.0; 1 << 16]), 0).unwrap();
    // The program aliases parameter 0; keeping it withdraws that, and it can be read and used again.
    for _ in 0..2 {
        let out = executable.execute(vec![Arg::Keep(&kept), Arg::Keep(&ones)]).unwrap();
        assert_eq!(out[0].to_literal().unwrap(), vector(&[6.0; 1 << 16]));
        assert_eq!(kept.to_literal().unwrap(), vector(&[5.0; 1 << 16]));
    }
    // A chain of donations, with nothing waited for in between; the handle given away cannot be named again.
    let mut sum = kept;
    for _ in 0..100 {
        sum = executable
            .execute(vec![Arg::Donate(sum), Arg::Keep(&ones)])
            .unwrap()
            .pop()
            .unwrap();
    }
    assert_eq!(sum.to_literal().unwrap(), vector(&[105.0; 1 << 16]));
    assert_eq!(ones.to_literal().unwrap(), vector(&[1.0; 1 << 16]));
    // The same buffer twice, both kept.
    let out = executable.execute(vec![Arg::Keep(&ones), Arg::Keep(&ones)]).unwrap();
    assert_eq!(out[0].to_literal().unwrap(), vector(&[2.0; 1 << 16]));
}

fn wrong_arguments_are_named(client: &Client) {
    let executable = compile(client, &addition(4));
    let fits = client.to_device(&vector(&[1.0; 4]), 0).unwrap();
    let short = client.to_device(&vector(&[1.0; 3]), 0).unwrap();
    let integers = client.to_device(&Literal::new(&[4], &[1i32; 4]), 0).unwrap();
    let error = |args| executable.execute(args).unwrap_err().to_string();
    assert_eq!(error(vec![Arg::Keep(&fits)]), "probe: 1 arguments given; expected 2");
    assert_eq!(
        error(vec![Arg::Keep(&fits), Arg::Keep(&short)]),
        "probe: argument 1 is f32[3]; expected f32[4]"
    );
    assert_eq!(
        error(vec![Arg::Keep(&integers), Arg::Keep(&fits)]),
        "probe: argument 0 is s32[4]; expected f32[4]"
    );
    let error = executable
        .execute_replicated(vec![vec![], vec![]])
        .unwrap_err()
        .to_string();
    assert_eq!(error, "probe: 2 devices given; expected 1");
}

fn wrong_programs_are_refused(client: &Client) {
    let error = client
        .compile(b"\xff\xffgarbage", &CompileOptions::default())
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.starts_with("PJRT_Client_Compile: ") && error.contains("HloModuleProto"),
        "{error}"
    );
    let mut module = proto::Module::decode(&addition(4)[..]).unwrap();
    module
        .computations
        .last_mut()
        .unwrap()
        .instructions
        .iter_mut()
        .for_each(|i| {
            if i.opcode == "add" {
                i.opcode = "no-such-operator".into();
            }
        });
    let error = client
        .compile(&module.encode_to_vec(), &CompileOptions::default())
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("no-such-operator"), "{error}");
}

fn statistics_and_optimized_program(client: &Client, version: (i32, i32)) {
    let executable = compile(client, &addition(1024));
    assert_eq!(
        (executable.num_outputs(), executable.num_devices(), executable.name()),
        (1, 1, "probe")
    );
    let memory = executable.compiled().memory_stats().unwrap();
    // Two parameters of 4 KiB, and a result in the place of the first.
    assert_eq!((memory.argument_bytes, memory.alias_bytes), (8192, 4096), "{memory:?}");
    assert!(memory.output_bytes >= 4096, "{memory:?}");
    // The two newer builds do not implement this.
    let cost = executable.compiled().cost_analysis().unwrap();
    let flops = cost.as_ref().and_then(|cost| cost.get("flops"));
    assert_eq!(flops, (version == (0, 81)).then_some(&OptionValue::Float(1024.0)));
    let module = proto::Module::decode(&executable.compiled().optimized_hlo().unwrap()[..]).unwrap();
    assert_eq!(module.name, "probe");
    assert_eq!(module.input_output_alias.unwrap().entries.len(), 1);
    assert!(
        module
            .computations
            .iter()
            .any(|c| c.instructions.iter().any(|i| i.opcode == "add"))
    );
    let again = compile(client, &addition(1024)).compiled().fingerprint().unwrap();
    assert_eq!(executable.compiled().fingerprint().unwrap(), again);
}

/// Buffers, results, events and pending reads: 2 GiB go through, in pieces of 4 MiB, and the process stays small.
fn memory_is_given_back(client: &Client) {
    let resident_bytes = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let array = vector(&[1.0; 1 << 20]);
    let executable = compile(client, &addition(1 << 20));
    let before = resident_bytes();
    for _ in 0..128 {
        let a = client.to_device(&array, 0).unwrap();
        let b = client.to_device_async(array.clone(), 0).unwrap();
        let sum = executable.execute(vec![Arg::Donate(a), Arg::Keep(&b)]).unwrap();
        drop(sum[0].to_literal_async().unwrap());
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 128 << 20, "grown by {grown} bytes");
}

fn run_addition(client: &Client, executable: &Executable) -> Literal {
    let a = client.to_device(&vector(&[1.0, 2.0]), 0).unwrap();
    let b = client.to_device(&vector(&[10.0, 20.0]), 0).unwrap();
    executable.execute(vec![Arg::Donate(a), Arg::Keep(&b)]).unwrap()[0]
        .to_literal()
        .unwrap()
}

fn executables_survive_serialization(client: &Client) {
    let bytes = compile(client, &addition(2)).compiled().serialize().unwrap();
    let loaded = client.deserialize(&bytes).unwrap();
    assert_eq!(run_addition(client, &loaded), vector(&[11.0, 22.0]));
    assert_eq!(loaded.parameters().unwrap().len(), 2);
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    let damaged = [
        (&bytes[..bytes.len() - 1], "digest does not match"),
        (&flipped, "digest does not match"),
    ];
    let foreign = [
        (&bytes[..20], "ends within its digest"),
        (&b"other"[..], "does not begin with"),
    ];
    for (bytes, reason) in damaged.into_iter().chain(foreign) {
        let error = client.deserialize(bytes).err().unwrap().to_string();
        assert!(
            error.starts_with("serialized executable: ") && error.contains(reason),
            "{error}"
        );
    }
}

fn the_cache_hits_misses_and_heals(client: &Client) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::in_dir(dir.path(), Cache::LIMIT_BYTES).unwrap();
    let compile = |n, options: &CompileOptions| {
        let (executable, outcome) = cache.compile(client, &addition(n), options).unwrap();
        if n == 2 {
            assert_eq!(run_addition(client, &executable), vector(&[11.0, 22.0]));
        }
        outcome
    };
    let options = CompileOptions::default();
    assert_eq!(compile(2, &options), CacheOutcome::Miss);
    assert_eq!(compile(2, &options), CacheOutcome::Hit);
    let entry = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&entry).unwrap();
    std::fs::write(&entry, &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(compile(2, &options), CacheOutcome::Damaged(why) if why.contains("digest")));
    assert_eq!(compile(2, &options), CacheOutcome::Hit);
    // Another graph and other options are other entries.
    assert_eq!(compile(3, &options), CacheOutcome::Miss);
    let flags = [("xla_cpu_enable_fast_math".to_owned(), OptionValue::Bool(true))];
    let other = CompileOptions {
        xla_flags: flags.into_iter().collect(),
        ..options.clone()
    };
    assert_eq!(compile(2, &other), CacheOutcome::Miss);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    // Without a cache directory the program still compiles.
    std::fs::remove_dir_all(dir.path()).unwrap();
    assert!(matches!(compile(2, &options), CacheOutcome::NotSaved(_)));
}

fn options_reach_the_compiler(client: &Client) {
    let flags = [("xla_no_such_flag".to_owned(), OptionValue::Int(1))];
    let options = CompileOptions {
        xla_flags: flags.into_iter().collect(),
        ..CompileOptions::default()
    };
    let error = client.compile(&addition(2), &options).err().unwrap().to_string();
    assert!(error.contains("xla_no_such_flag"), "{error}");
    let options = CompileOptions {
        device_ids: Some(vec![5]),
        ..CompileOptions::default()
    };
    let executable = client.compile(&addition(2), &options).unwrap();
    let [a, b] = [1.0, 2.0].map(|v| client.to_device(&vector(&[v; 2]), 5).unwrap());
    let out = executable.execute(vec![Arg::Keep(&a), Arg::Keep(&b)]).unwrap();
    assert_eq!(out[0].to_literal().unwrap(), vector(&[3.0; 2]));
}

/// The sum of a vector over all replicas.
fn all_reduce(n: usize) -> Vec<u8> {
    let sum = computation(&[Shape::new(DType::F32, [n])], |p| vec![p[0].all_reduce(Reducer::Add)]);
    sum.to_bytes(&[Alias {
        output: 0,
        parameter: 0,
    }])
}

fn replicas_reduce_over_all_devices(client: &Client) {
    let executable = client.compile(&all_reduce(3), &CompileOptions::replicated(8)).unwrap();
    assert_eq!(executable.num_devices(), 8);
    let mut values: Vec<_> = (0..8)
        .map(|d| client.to_device(&vector(&[d as f32, 1.0, 0.5]), d).unwrap())
        .collect();
    for expected in [[28.0, 8.0, 4.0], [224.0, 64.0, 32.0]] {
        let args = values.into_iter().map(|v| vec![Arg::Donate(v)]).collect();
        values = executable
            .execute_replicated(args)
            .unwrap()
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(values.len(), 8);
        for value in &values {
            assert_eq!(value.to_literal().unwrap(), vector(&expected));
        }
    }
}

fn buffers_cross_threads_and_outlive_the_client(client: Client) {
    let executable = compile(&client, &addition(2));
    let buffer = client.to_device_async(vector(&[3.0, 4.0]), 0).unwrap();
    drop(client);
    let read = std::thread::spawn(move || {
        let sum = executable
            .execute(vec![Arg::Keep(&buffer), Arg::Keep(&buffer)])
            .unwrap();
        sum[0].to_literal_async().unwrap()
    });
    assert_eq!(read.join().unwrap().wait().unwrap(), vector(&[6.0, 8.0]));
}
