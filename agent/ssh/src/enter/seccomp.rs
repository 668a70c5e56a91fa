//! The container's filter of system calls, compiled for a further process.
//!
//! The configuration is written for libseccomp, which makes one program with an action for each rule. Here one
//! program has two actions, one for calls that match it and one for the rest, and the kernel takes the strictest that any
//! program says. So there is one program for the default, which lets pass what any rule speaks of, and one for
//! each action other than allowing:
//!
//! ```text
//!   default:  a rule of any action matches?  allow : default action
//!   ERRNO 38: a rule of this action matches? ERRNO 38 : allow
//! ```
//!
//! Invariant: what cannot be expressed is refused, never let pass, and leaves a note. That includes system calls of another
//! architecture (32-bit programs), which end the process.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::str::FromStr as _;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use syscalls::Sysno;

use super::bundle::{Condition, Seccomp, SyscallRule};
use super::failure::{Failure, Step as _};
use super::sys;

/// What is refused by is `EPERM`, unless the rule says otherwise.
const EPERM: u32 = 1;

/// The compiled filter.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// To be installed in this order: among equally strict actions the last program's counts.
    programs: Vec<BpfProgram>,
    flags: libc::c_ulong,
    /// What an operator should know.
    pub(super) notes: Vec<String>,
}

/// The rules of one action, by system call.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

impl Filter {
    /// Compiles what the configuration says.
    pub(super) fn compile(seccomp: &Seccomp) -> Result<Self, Failure> {
        let mut filter = Self::default();
        let default_errno = seccomp.default_errno_ret.unwrap_or(EPERM);
        let default = filter.action(&seccomp.default_action, default_errno);
        let mut passing = Rules::new();
        let mut others: Vec<(SeccompAction, Rules)> = Vec::new();
        for rule in &seccomp.syscalls {
            let action = filter.action(&rule.action, rule.errno_ret.unwrap_or(EPERM));
            let refusing = !matches!(
                action,
                SeccompAction::Allow | SeccompAction::Log | SeccompAction::Trace(_)
            );
            let Some(alternatives) = filter.alternatives(rule, refusing) else { continue };
            if action != SeccompAction::Allow && !others.iter().any(|(known, _)| *known == action) {
                others.push((action.clone(), Rules::new()));
            }
            for number in rule.names.iter().filter_map(|name| Sysno::from_str(name).ok()) {
                let number = i64::from(number.id());
                add(&mut passing, number, &alternatives);
                let of_action = others.iter_mut().find(|(known, _)| *known == action);
                if let Some((_, rules)) = of_action {
                    add(rules, number, &alternatives);
                }
            }
        }
        if default != SeccompAction::Allow {
            filter.program(passing, default, SeccompAction::Allow)?;
        }
        for (action, rules) in others {
            filter.program(rules, SeccompAction::Allow, action)?;
        }
        filter.flags = flags(&seccomp.flags);
        Ok(filter)
    }

    /// Puts this process under the filter, for good. Needs `CAP_SYS_ADMIN` or `no_new_privs`.
    pub(super) fn install(&self) -> Result<(), Failure> {
        self.programs
            .iter()
            .try_for_each(|program| sys::install_filter(program, self.flags))
            .restriction("seccomp filter")
    }

    fn program(
        &mut self,
        rules: Rules,
        otherwise: SeccompAction,
        action: SeccompAction,
    ) -> Result<(), Failure> {
        let what = "seccomp filter";
        let target = TargetArch::try_from(ARCH).restriction(what)?;
        let filter = SeccompFilter::new(rules, otherwise, action, target).restriction(what)?;
        self.programs.push(BpfProgram::try_from(filter).restriction(what)?);
        Ok(())
    }

    fn action(&mut self, name: &str, errno: u32) -> SeccompAction {
        match name {
            "SCMP_ACT_ALLOW" => SeccompAction::Allow,
            "SCMP_ACT_LOG" => SeccompAction::Log,
            "SCMP_ACT_ERRNO" => SeccompAction::Errno(errno),
            "SCMP_ACT_TRACE" => SeccompAction::Trace(errno),
            "SCMP_ACT_TRAP" => SeccompAction::Trap,
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => SeccompAction::KillThread,
            "SCMP_ACT_KILL_PROCESS" => SeccompAction::KillProcess,
            other => {
                self.notes.push(format!(
                    "the seccomp action {other:?} is not supported: refused with EPERM"
                ));
                SeccompAction::Errno(EPERM)
            }
        }
    }

    /// The conditions of which one has to hold; no condition at all means always. `None` if the rule is to have no
    /// effect.
    ///
    /// A condition that cannot be expressed makes a rule that refuses unconditional, and any other void.
    fn alternatives(&mut self, rule: &SyscallRule, refusing: bool) -> Option<Vec<SeccompRule>> {
        let mapped: Option<Vec<_>> = rule.args.iter().map(condition).collect();
        // As runc does: conditions on one argument are alternatives, on different ones they hold together.
        let repeated = |conditions: &[Condition]| {
            let mut indices: Vec<_> = conditions.iter().map(|one| one.index).collect();
            indices.sort_unstable();
            indices.windows(2).any(|pair| pair.first() == pair.last())
        };
        let alternatives: Option<Vec<_>> = mapped.and_then(|mapped| match mapped {
            none if none.is_empty() => Some(Vec::new()),
            each if repeated(&rule.args) => {
                each.into_iter().map(|one| SeccompRule::new(vec![one]).ok()).collect()
            }
            all => SeccompRule::new(all).ok().map(|rule| vec![rule]),
        });
        if alternatives.is_none() {
            self.notes.push(format!(
                "a seccomp condition on {} is not supported: {}",
                rule.names.join(", "),
                if refusing { "refused always" } else { "not allowed" }
            ));
        }
        alternatives.or_else(|| refusing.then(Vec::new))
    }
}

/// Adds alternatives to a system call's; always is always, whatever else there is.
fn add(rules: &mut Rules, number: i64, alternatives: &[SeccompRule]) {
    match rules.get_mut(&number) {
        None => drop(rules.insert(number, alternatives.to_vec())),
        Some(known) if known.is_empty() || alternatives.is_empty() => known.clear(),
        Some(known) => known.extend_from_slice(alternatives),
    }
}

fn condition(condition: &Condition) -> Option<SeccompCondition> {
    let value = condition.value;
    let (operator, value) = match &*condition.op {
        "SCMP_CMP_EQ" => (SeccompCmpOp::Eq, value),
        "SCMP_CMP_NE" => (SeccompCmpOp::Ne, value),
        "SCMP_CMP_LT" => (SeccompCmpOp::Lt, value),
        "SCMP_CMP_LE" => (SeccompCmpOp::Le, value),
        "SCMP_CMP_GT" => (SeccompCmpOp::Gt, value),
        "SCMP_CMP_GE" => (SeccompCmpOp::Ge, value),
        // The first value is the mask.
        "SCMP_CMP_MASKED_EQ" => (SeccompCmpOp::MaskedEq(value), condition.value_two),
        _ => return None,
    };
    let index = u8::try_from(condition.index).ok()?;
    SeccompCondition::new(index, SeccompCmpArgLen::Qword, operator, value).ok()
}

/// The flags that concern this process; the others only concern listeners and threads.
fn flags(names: &[String]) -> libc::c_ulong {
    let flag = |name: &String| match &**name {
        "SECCOMP_FILTER_FLAG_LOG" => libc::SECCOMP_FILTER_FLAG_LOG,
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        _ => 0,
    };
    names.iter().map(flag).fold(0, |all, one| all | one)
}

#[cfg(test)]
mod tests;
