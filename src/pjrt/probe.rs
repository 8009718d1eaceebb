//! Tiny programs that need no graph builder: for `plugin doctor` and for the tests of this module.

use hlo::Shape;
use prost::Message;

use super::proto::{ProgramShape, ShapeProto};

/// Writes an `HloModuleProto` instruction by instruction. An instruction's number is its position, from 1.
pub struct Module {
    name: &'static str,
    computations: Vec<Computation>,
    entry: Vec<Instruction>,
    parameters: Vec<Shape>,
    aliases: Vec<AliasEntry>,
}

/// Number of the entry computation and of the scalar addition that all-reduce applies.
const ENTRY: i64 = 1;
const ADDITION: i64 = 2;

impl Module {
    /// An empty module.
    pub fn new(name: &'static str) -> Module {
        Module {
            name,
            computations: Vec::new(),
            entry: Vec::new(),
            parameters: Vec::new(),
            aliases: Vec::new(),
        }
    }

    /// The next parameter.
    pub fn parameter(&mut self, shape: &Shape) -> i64 {
        let parameter_number = self.parameters.len() as i64;
        self.parameters.push(shape.clone());
        self.push(Instruction {
            parameter_number,
            ..instruction("parameter", shape, &[])
        })
    }

    /// An operation that needs operands only, such as `add`.
    pub fn op(&mut self, opcode: &str, shape: &Shape, operands: &[i64]) -> i64 {
        self.push(instruction(opcode, shape, operands))
    }

    /// The matrix product of two rank-2 arrays.
    pub fn dot(&mut self, shape: &Shape, a: i64, b: i64) -> i64 {
        let numbers = DotNumbers {
            lhs_contracting: vec![1],
            rhs_contracting: vec![0],
        };
        self.push(Instruction {
            dot_dimension_numbers: Some(numbers),
            ..instruction("dot", shape, &[a, b])
        })
    }

    /// The sum over all replicas.
    pub fn all_reduce(&mut self, shape: &Shape, operand: i64) -> i64 {
        let scalar = Shape::scalar(shape.dtype);
        let mut addition: Vec<Instruction> = (0..2)
            .map(|parameter_number| Instruction {
                parameter_number,
                ..instruction("parameter", &scalar, &[])
            })
            .collect();
        addition.push(instruction("add", &scalar, &[1, 2]));
        self.computations = vec![computation("addition", ADDITION, addition, &[scalar.clone(), scalar])];
        self.push(Instruction {
            called_computation_ids: vec![ADDITION],
            ..instruction("all-reduce", shape, &[operand])
        })
    }

    /// Lets result `output` take over the memory of parameter `parameter`.
    pub fn alias(&mut self, output: i64, parameter: i64) {
        const MAY_ALIAS: i32 = 1;
        self.aliases.push(AliasEntry {
            output: vec![output],
            parameter,
            kind: MAY_ALIAS,
        });
    }

    /// Ends the module with a tuple of results; returns the serialized `HloModuleProto`.
    pub fn finish(mut self, results: &[i64]) -> Vec<u8> {
        let part = |i: &i64| self.entry[*i as usize - 1].shape.clone().unwrap_or_default();
        let mut tuple = instruction("tuple", &Shape::scalar(hlo::DType::Pred), results);
        tuple.shape = Some(ShapeProto {
            tuple_shapes: results.iter().map(part).collect(),
            ..ShapeProto::tuple(&[])
        });
        self.push(tuple);
        let entry = computation("entry", ENTRY, self.entry, &self.parameters);
        let host_program_shape = entry.program_shape.clone();
        self.computations.push(entry);
        let module = HloModule {
            name: self.name.into(),
            entry_computation_name: "entry".into(),
            computations: self.computations,
            host_program_shape,
            entry_computation_id: ENTRY,
            input_output_alias: Some(Aliases { entries: self.aliases }),
        };
        module.encode_to_vec()
    }

    fn push(&mut self, instruction: Instruction) -> i64 {
        self.entry.push(instruction);
        self.entry.len() as i64
    }
}

fn instruction(opcode: &str, shape: &Shape, operands: &[i64]) -> Instruction {
    Instruction {
        opcode: opcode.into(),
        shape: Some(ShapeProto::array(shape)),
        operand_ids: operands.to_vec(),
        ..Instruction::default()
    }
}

/// Numbers and names the instructions; ids hold the computation in their high half, so that they differ everywhere.
fn computation(name: &str, id: i64, mut instructions: Vec<Instruction>, parameters: &[Shape]) -> Computation {
    let unique = |local: i64| id << 32 | local;
    for (local, instruction) in (1..).zip(&mut instructions) {
        instruction.id = unique(local);
        instruction.name = format!("{name}.{local}");
        instruction
            .operand_ids
            .iter_mut()
            .for_each(|operand| *operand = unique(*operand));
    }
    let root = instructions.last();
    let shape = ProgramShape::new(parameters, root.and_then(|r| r.shape.clone()).unwrap_or_default());
    let root_id = root.map_or(0, |r| r.id);
    Computation {
        name: name.into(),
        instructions,
        program_shape: Some(shape),
        id,
        root_id,
    }
}

#[derive(Clone, PartialEq, Message)]
struct HloModule {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    entry_computation_name: String,
    #[prost(message, repeated, tag = "3")]
    computations: Vec<Computation>,
    #[prost(message, optional, tag = "4")]
    host_program_shape: Option<ProgramShape>,
    #[prost(int64, tag = "6")]
    entry_computation_id: i64,
    #[prost(message, optional, tag = "8")]
    input_output_alias: Option<Aliases>,
}

#[derive(Clone, PartialEq, Message)]
struct Computation {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    instructions: Vec<Instruction>,
    #[prost(message, optional, tag = "4")]
    program_shape: Option<ProgramShape>,
    #[prost(int64, tag = "5")]
    id: i64,
    #[prost(int64, tag = "6")]
    root_id: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Instruction {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    opcode: String,
    #[prost(message, optional, tag = "3")]
    shape: Option<ShapeProto>,
    #[prost(int64, tag = "9")]
    parameter_number: i64,
    #[prost(message, optional, tag = "30")]
    dot_dimension_numbers: Option<DotNumbers>,
    #[prost(int64, tag = "35")]
    id: i64,
    #[prost(int64, repeated, tag = "36")]
    operand_ids: Vec<i64>,
    #[prost(int64, repeated, tag = "38")]
    called_computation_ids: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct DotNumbers {
    #[prost(int64, repeated, tag = "1")]
    lhs_contracting: Vec<i64>,
    #[prost(int64, repeated, tag = "2")]
    rhs_contracting: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Aliases {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<AliasEntry>,
}

#[derive(Clone, PartialEq, Message)]
struct AliasEntry {
    #[prost(int64, repeated, tag = "1")]
    output: Vec<i64>,
    #[prost(int64, tag = "2")]
    parameter: i64,
    #[prost(int32, tag = "4")]
    kind: i32,
}
