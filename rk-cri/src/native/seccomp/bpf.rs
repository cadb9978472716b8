//! From rules to a program that the kernel runs before each system call (seccomp(2), classic BPF).
//!
//! The program is a binary search over the numbers of calls: neighbours with the same answer are one
//! range, so that a call costs some eight comparisons and not one for each call that there is.

use super::profile::{Condition, Operator, Rule};

/// What the kernel does with a call: a value that a filter returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Action(pub(super) u32);

impl Action {
    pub(super) const ALLOW: Self = Self(0x7fff_0000);
    pub(super) const LOG: Self = Self(0x7ffc_0000);
    pub(super) const TRAP: Self = Self(0x0003_0000);
    pub(super) const KILL_THREAD: Self = Self(0);
    pub(super) const KILL_PROCESS: Self = Self(0x8000_0000);

    /// The call fails with this number.
    pub(super) const fn errno(number: u16) -> Self {
        Self(0x0005_0000 | number as u32)
    }

    /// A tracer is told this number.
    pub(super) const fn trace(number: u16) -> Self {
        Self(0x7ff0_0000 | number as u32)
    }
}

/// The longest program that the kernel takes.
pub(super) const INSTRUCTIONS_MAX: usize = 4096;

/// Calls of x86-64's x32 convention have numbers from here on.
const X32: u32 = 0x4000_0000;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: u32 = 0;

// Operations (linux/bpf_common.h).
const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const AND: u16 = 0x54;

// Where the facts of a call are (struct seccomp_data).
const NUMBER: u32 = 0;
const MACHINE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// An instruction as the kernel has it in memory (struct sock_filter).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(into = "u64", from = "u64")]
#[repr(C)]
pub(in crate::native) struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    operand: u32,
}

impl From<Instruction> for u64 {
    fn from(from: Instruction) -> Self {
        u64::from(from.code) << 48
            | u64::from(from.if_true) << 40
            | u64::from(from.if_false) << 32
            | u64::from(from.operand)
    }
}

impl From<u64> for Instruction {
    fn from(from: u64) -> Self {
        Self {
            code: (from >> 48) as u16,
            if_true: (from >> 40) as u8,
            if_false: (from >> 32) as u8,
            operand: from as u32,
        }
    }
}

const fn plain(code: u16, operand: u32) -> Instruction {
    Instruction { code, if_true: 0, if_false: 0, operand }
}

const fn branch(code: u16, operand: u32, if_true: u8, if_false: u8) -> Instruction {
    Instruction { code, if_true, if_false, operand }
}

/// What is answered to calls of a number: the first rule whose conditions hold, else `otherwise`.
#[derive(Clone, Debug, PartialEq)]
struct Answer<'a> {
    conditional: Vec<&'a Rule>,
    otherwise: Action,
}

/// The program of these rules. Of the rules for a call, one without conditions holds where none with
/// conditions does; otherwise the first counts. Programs of another machine than this one are
/// killed, as libseccomp does.
pub(super) fn program(rules: &[Rule], default: Action) -> Vec<Instruction> {
    let mut program = vec![
        plain(LOAD, MACHINE),
        branch(IF_EQUAL, ARCHITECTURE, 1, 0),
        plain(RETURN, Action::KILL_PROCESS.0),
        plain(LOAD, NUMBER),
    ];
    if cfg!(target_arch = "x86_64") {
        program.push(branch(IF_AT_LEAST, X32, 0, 1));
        program.push(plain(RETURN, Action::KILL_PROCESS.0));
    }
    program.extend(search(&ranges(rules, default)));
    program
}

/// The answers by the first number that each holds for, in order; the first holds from zero.
fn ranges(rules: &[Rule], default: Action) -> Vec<(u32, Answer<'_>)> {
    let silent = || Answer { conditional: Vec::new(), otherwise: default };
    let mut numbers: Vec<u32> = rules.iter().map(|rule| rule.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut ranges = vec![(0, silent())];
    for number in numbers {
        let of_call = || rules.iter().filter(|rule| rule.number == number);
        let otherwise = of_call().find(|rule| rule.conditions.is_empty());
        let answer = Answer {
            conditional: of_call().filter(|rule| !rule.conditions.is_empty()).collect(),
            otherwise: otherwise.map_or(default, |rule| rule.action),
        };
        put(&mut ranges, number, answer);
        put(&mut ranges, number.saturating_add(1), silent());
    }
    // Neighbours that were overwritten one by one may say the same.
    ranges.dedup_by(|later, earlier| later.1 == earlier.1);
    ranges
}

/// Says what holds from `first` on, instead of what was said of it before.
fn put<'a>(ranges: &mut Vec<(u32, Answer<'a>)>, first: u32, answer: Answer<'a>) {
    match ranges.last_mut() {
        Some(last) if last.0 == first => last.1 = answer,
        _ => ranges.push((first, answer)),
    }
}

fn search(ranges: &[(u32, Answer<'_>)]) -> Vec<Instruction> {
    if let [(_, only)] = ranges {
        return leaf(only);
    }
    let (below, above) = ranges.split_at(ranges.len() / 2);
    let (first, below, above) = (above[0].0, search(below), search(above));
    let mut program = match u8::try_from(below.len()) {
        Ok(length) => vec![branch(IF_AT_LEAST, first, length, 0)],
        // A branch reaches 255 instructions; a jump all.
        Err(_) => vec![branch(IF_AT_LEAST, first, 0, 1), plain(JUMP, below.len() as u32)],
    };
    program.extend(below);
    program.extend(above);
    program
}

fn leaf(answer: &Answer<'_>) -> Vec<Instruction> {
    let mut program = Vec::new();
    for rule in &answer.conditional {
        // From the end: each condition needs to know how far it is to the next rule.
        let mut tail = vec![plain(RETURN, rule.action.0)];
        for condition in rule.conditions.iter().rev() {
            let mut test = check(condition, tail.len());
            test.append(&mut tail);
            tail = test;
        }
        program.extend(tail);
    }
    program.push(plain(RETURN, answer.otherwise.0));
    program
}

/// Falls through if the condition holds, else skips what comes after it, which is `rest` long.
fn check(condition: &Condition, rest: usize) -> Vec<Instruction> {
    let at = ARGUMENTS + 8 * u32::from(condition.argument);
    // Both machines have the lower half first.
    let (low, high) = (at, at + 4);
    let halves = |value: u64| (value as u32, (value >> 32) as u32);
    let (value_low, value_high) = halves(condition.value);
    // Jumps to the end are written once all is there: `END` stands for them.
    const END: u8 = u8::MAX;
    let mut test = match condition.operator {
        Operator::Equal => vec![
            plain(LOAD, high),
            branch(IF_EQUAL, value_high, 0, END),
            plain(LOAD, low),
            branch(IF_EQUAL, value_low, 0, END),
        ],
        Operator::NotEqual => vec![
            plain(LOAD, high),
            branch(IF_EQUAL, value_high, 0, 2),
            plain(LOAD, low),
            branch(IF_EQUAL, value_low, END, 0),
        ],
        Operator::Masked(mask) => {
            let (mask_low, mask_high) = halves(mask);
            vec![
                plain(LOAD, high),
                plain(AND, mask_high),
                branch(IF_EQUAL, value_high, 0, END),
                plain(LOAD, low),
                plain(AND, mask_low),
                branch(IF_EQUAL, value_low, 0, END),
            ]
        }
        Operator::Greater | Operator::AtLeast => {
            let code =
                if condition.operator == Operator::Greater { IF_GREATER } else { IF_AT_LEAST };
            vec![
                plain(LOAD, high),
                branch(IF_GREATER, value_high, 3, 0),
                branch(IF_EQUAL, value_high, 0, END),
                plain(LOAD, low),
                branch(code, value_low, 0, END),
            ]
        }
        Operator::Less | Operator::AtMost => {
            let code = if condition.operator == Operator::Less { IF_AT_LEAST } else { IF_GREATER };
            vec![
                plain(LOAD, high),
                branch(IF_GREATER, value_high, END, 0),
                branch(IF_EQUAL, value_high, 0, 2),
                plain(LOAD, low),
                branch(code, value_low, END, 0),
            ]
        }
    };
    let length = test.len();
    for (at, instruction) in test.iter_mut().enumerate() {
        // At most five conditions of six instructions come after.
        let distance = u8::try_from(length - at - 1 + rest).unwrap_or(END);
        for jump in [&mut instruction.if_true, &mut instruction.if_false] {
            if *jump == END {
                *jump = distance;
            }
        }
    }
    test
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs a program as the kernel does.
    fn run(program: &[Instruction], number: u32, arguments: [u64; 6]) -> Action {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(ARCHITECTURE.to_le_bytes());
        data.extend([0; 8]);
        data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
        let (mut at, mut register) = (0, 0);
        loop {
            let Instruction { code, if_true, if_false, operand } = program[at];
            let branch = |holds: bool| usize::from(if holds { if_true } else { if_false });
            at += 1;
            match code {
                LOAD => {
                    let from = operand as usize;
                    register = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
                }
                AND => register &= operand,
                JUMP => at += operand as usize,
                IF_EQUAL => at += branch(register == operand),
                IF_GREATER => at += branch(register > operand),
                IF_AT_LEAST => at += branch(register >= operand),
                RETURN => return Action(operand),
                other => panic!("no such instruction: {other:#x}"),
            }
        }
    }

    fn holds(condition: &Condition, arguments: [u64; 6]) -> bool {
        let (given, value) = (arguments[usize::from(condition.argument)], condition.value);
        match condition.operator {
            Operator::Equal => given == value,
            Operator::NotEqual => given != value,
            Operator::Greater => given > value,
            Operator::AtLeast => given >= value,
            Operator::Less => given < value,
            Operator::AtMost => given <= value,
            Operator::Masked(mask) => given & mask == value,
        }
    }

    /// What the rules say, read one after the other.
    fn model(rules: &[Rule], default: Action, number: u32, arguments: [u64; 6]) -> Action {
        let of_call = || rules.iter().filter(|rule| rule.number == number);
        let conditional = of_call().filter(|rule| !rule.conditions.is_empty());
        let holding =
            conditional.filter(|rule| rule.conditions.iter().all(|c| holds(c, arguments)));
        let plain = of_call().filter(|rule| rule.conditions.is_empty());
        holding.chain(plain).next().map_or(default, |rule| rule.action)
    }

    /// Values that meet in one half, the other, or both.
    fn value() -> impl Strategy<Value = u64> {
        (0u64..3, 0u64..3).prop_map(|(high, low)| high << 32 | low)
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let operator = prop_oneof![
            Just(Operator::Equal),
            Just(Operator::NotEqual),
            Just(Operator::Greater),
            Just(Operator::AtLeast),
            Just(Operator::Less),
            Just(Operator::AtMost),
            value().prop_map(Operator::Masked),
        ];
        let condition = (0u8..2, operator, value())
            .prop_map(|(argument, operator, value)| Condition { argument, operator, value });
        let conditions = proptest::collection::vec(condition, 0..3);
        (0u32..40, 1u16..4, conditions).prop_map(|(number, errno, conditions)| Rule {
            number,
            action: Action::errno(errno),
            conditions,
        })
    }

    proptest! {
        #[test]
        fn a_program_answers_as_its_rules_read_one_by_one(
            rules in proptest::collection::vec(rule(), 0..60),
            calls in proptest::collection::vec((0u32..42, value(), value()), 1..40),
        ) {
            let program = program(&rules, Action::ALLOW);
            for (number, first, second) in calls {
                let arguments = [first, second, 0, 0, 0, 0];
                let kept = |one: &Instruction| Instruction::from(u64::from(*one));
                prop_assert_eq!(program.iter().map(kept).collect::<Vec<_>>(), program.clone());
                prop_assert_eq!(
                    run(&program, number, arguments),
                    model(&rules, Action::ALLOW, number, arguments)
                );
            }
        }
    }

    #[test]
    fn a_search_over_many_ranges_reaches_them_all() {
        let rules: Vec<Rule> = (0..900)
            .map(|number| Rule {
                number,
                action: Action::errno((number % 7) as u16),
                conditions: Vec::new(),
            })
            .collect();
        let program = program(&rules, Action::ALLOW);
        assert!(program.len() < INSTRUCTIONS_MAX);
        for rule in &rules {
            assert_eq!(run(&program, rule.number, [0; 6]), rule.action);
        }
        assert_eq!(run(&program, 900, [0; 6]), Action::ALLOW);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn calls_of_another_convention_are_not_mistaken_for_ours() {
        let program = program(&[], Action::ALLOW);
        assert_eq!(run(&program, X32 | 1, [0; 6]), Action::KILL_PROCESS);
    }
}
