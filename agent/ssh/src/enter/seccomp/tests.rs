use std::cmp::Reverse;

use proptest::prelude::*;
use seccompiler::sock_filter;
use serde_json::json;

use super::*;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | EPERM;

fn compile(seccomp: serde_json::Value) -> Filter {
    Filter::compile(&serde_json::from_value(seccomp).unwrap()).unwrap()
}

/// What the kernel would say to a system call: it asks all programs, the last one first, and takes the strictest.
fn verdict(filter: &Filter, name: &str, arguments: [u64; 6]) -> u32 {
    let number = i64::from(Sysno::from_str(name).unwrap().id());
    let action = |value: u32| i64::from((value & libc::SECCOMP_RET_ACTION_FULL).cast_signed());
    let verdicts = filter.programs.iter().rev().map(|program| run(program, number, arguments));
    // The first of the least, as the kernel does; its numbers are signed.
    verdicts.min_by_key(|value| action(*value)).unwrap_or(ALLOW)
}

/// The few instructions that the compiler makes.
fn run(program: &[sock_filter], number: i64, arguments: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(u32::try_from(number).unwrap().to_le_bytes());
    data.extend(if ARCH == "x86_64" { 0xc000_003e_u32 } else { 0xc000_00b7 }.to_le_bytes());
    data.extend(0_u64.to_le_bytes());
    arguments.iter().for_each(|argument| data.extend(argument.to_le_bytes()));
    let (mut at, mut accumulator) = (0, 0_u32);
    loop {
        let instruction = &program[at];
        let (k, jump) = (instruction.k, |taken: bool| {
            usize::from(if taken { instruction.jt } else { instruction.jf })
        });
        at += 1;
        match instruction.code {
            0x20 => accumulator = u32::from_le_bytes(data[k as usize..][..4].try_into().unwrap()),
            0x05 => at += k as usize,
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x54 => accumulator &= k,
            0x06 => return k,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

#[test]
fn what_no_rule_allows_gets_the_default() {
    let filter = compile(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": ["read", "from_the_future"], "action": "SCMP_ACT_ALLOW"}],
    }));
    assert_eq!(verdict(&filter, "read", [0; 6]), ALLOW);
    assert_eq!(verdict(&filter, "write", [0; 6]), REFUSED);
    assert_eq!(filter.notes, [] as [&str; 0]);
}

#[test]
fn an_error_of_a_rule_counts_over_the_default() {
    let filter = compile(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 13,
        "syscalls": [
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["ptrace"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["sync"], "action": "SCMP_ACT_LOG"},
        ],
    }));
    assert_eq!(verdict(&filter, "clone3", [0; 6]), libc::SECCOMP_RET_ERRNO | 38);
    assert_eq!(verdict(&filter, "ptrace", [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
    assert_eq!(verdict(&filter, "sync", [0; 6]), libc::SECCOMP_RET_LOG);
    assert_eq!(verdict(&filter, "read", [0; 6]), libc::SECCOMP_RET_ERRNO | 13);
}

#[test]
fn conditions_on_different_arguments_hold_together_and_on_one_are_alternatives() {
    let rule = |args| {
        compile(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": args}],
        }))
    };
    let condition =
        |index: u32, value: u64| json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"});
    let both = rule(json!([condition(0, 8), condition(1, 9)]));
    assert_eq!(verdict(&both, "personality", [8, 9, 0, 0, 0, 0]), ALLOW);
    assert_eq!(verdict(&both, "personality", [8, 8, 0, 0, 0, 0]), REFUSED);
    let either = rule(json!([condition(0, 8), condition(0, 1 << 40)]));
    assert_eq!(verdict(&either, "personality", [8, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(verdict(&either, "personality", [1 << 40, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(verdict(&either, "personality", [0; 6]), REFUSED);
}

#[test]
fn a_masked_condition_is_on_the_bits_of_its_mask() {
    // As in Docker's filter: no new namespaces.
    let filter = compile(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}],
    }));
    assert_eq!(verdict(&filter, "clone", [0x11, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(verdict(&filter, "clone", [0x1000_0011, 0, 0, 0, 0, 0]), REFUSED);
}

#[test]
fn what_cannot_be_expressed_is_refused_and_noted() {
    let strange = json!([{"index": 0, "value": 1, "op": "SCMP_CMP_FUTURE"}]);
    let filter = compile(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_NOTIFY"},
            {"names": ["write"], "action": "SCMP_ACT_ERRNO", "args": strange},
        ],
    }));
    assert_eq!(verdict(&filter, "read", [0; 6]), REFUSED);
    assert_eq!(verdict(&filter, "write", [0; 6]), REFUSED);
    assert_eq!(verdict(&filter, "close", [0; 6]), ALLOW);
    assert_eq!(filter.notes.len(), 2);

    for action in ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG"] {
        let filter = compile(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["write"], "action": action, "args": strange}],
        }));
        assert_eq!(verdict(&filter, "write", [0; 6]), REFUSED, "{action}");
        assert_eq!(filter.notes.len(), 1);
    }
}

/// How strict a verdict is, the strictest first.
fn strictness(verdict: u32) -> Reverse<u32> {
    Reverse(match verdict & libc::SECCOMP_RET_ACTION_FULL {
        libc::SECCOMP_RET_KILL_PROCESS => 4,
        libc::SECCOMP_RET_KILL_THREAD => 3,
        libc::SECCOMP_RET_ERRNO => 2,
        libc::SECCOMP_RET_LOG => 1,
        _ => 0,
    })
}

proptest! {
    /// What libseccomp's semantics allow at most: a call passes only if the default or a rule that holds lets it.
    #[test]
    fn nothing_passes_that_no_rule_lets_pass(
        rules in proptest::collection::vec(
            (0..3_usize, 0..4_usize, proptest::option::of((0..2_u32, 0..3_u64))), 0..6),
        default in 0..4_usize,
        call in 0..3_usize,
        arguments in [0..3_u64, 0..3_u64],
    ) {
        const ACTIONS: [&str; 4] =
            ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"];
        const VERDICTS: [u32; 4] =
            [ALLOW, libc::SECCOMP_RET_LOG, REFUSED, libc::SECCOMP_RET_KILL_PROCESS];
        const CALLS: [&str; 3] = ["read", "write", "close"];
        let syscalls: Vec<_> = rules.iter().map(|(call, action, condition)| {
            let args: Vec<_> = condition.iter().map(|(index, value)| {
                json!({"index": index, "value": value, "op": "SCMP_CMP_EQ"})
            }).collect();
            json!({"names": [CALLS[*call]], "action": ACTIONS[*action], "args": args})
        }).collect();
        let filter = compile(json!({"defaultAction": ACTIONS[default], "syscalls": syscalls}));

        let holds = |condition: &Option<(u32, u64)>| {
            condition.is_none_or(|(index, value)| arguments[index as usize] == value)
        };
        let speaking = rules.iter().filter(|(of, _, condition)| *of == call && holds(condition));
        let strictest = speaking.map(|(_, action, _)| VERDICTS[*action]).min_by_key(|one| strictness(*one));
        let expected = strictest.unwrap_or(VERDICTS[default]);
        let given = verdict(&filter, CALLS[call], [arguments[0], arguments[1], 0, 0, 0, 0]);
        prop_assert_eq!(given, expected);
    }
}
