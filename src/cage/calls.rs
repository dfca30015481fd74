//! seccomp: the system calls that the rest of a login makes, and no other.
//!
//! Two programs, of whose verdicts the kernel takes the stricter. The first kills for what no libc ever does for us
//! and an intruder does first. The second lets through what is listed and refuses the rest with ENOSYS, on which a
//! libc falls back to the older call that it knows: a new libc must not lock a fleet out. A call of another machine's
//! ABI is killed by both (seccompiler puts that check first), and x32's numbers are on no list.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use super::{Layer, Needs};

/// Run a program, look into another process, talk to the network, load a module, change what is mounted.
const KILLED: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
];

/// What a login makes after its evidence has arrived, on glibc 2.17 to 2.43, and what libc makes for it when a path is
/// a rare one: memory is short, a signal came, the process is ending.
const LET_THROUGH: &[i64] = &[
    // Memory; mmap and mprotect are in `UNLESS_EXECUTABLE`.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Time and chance: the clock where the vDSO has none, hash maps' seeds.
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    // Who we are, for the log and for the owner of a bundle.
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    // Files: the bundle of anchors. Landlock says which; without Landlock their owner and mode do.
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_fcntl,
    libc::SYS_dup,
    // The keys to sshd, the lines to a person's terminal.
    libc::SYS_write,
    libc::SYS_writev,
    // The logger's socket, which is connected already.
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_setsockopt,
    // Locks, signals, the end.
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Older libcs' names of the above, which newer machines never had.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

/// Their third argument is the memory's protection.
const UNLESS_EXECUTABLE: &[i64] = &[libc::SYS_mmap, libc::SYS_mprotect];

/// Beside these, only where keys are one-time: a claim is made by the one and read by the other (`crate::claim`).
const FOR_CLAIMS: &[i64] = &[libc::SYS_symlinkat, libc::SYS_readlinkat];

/// Beside these, only where children were started.
const FOR_CHILDREN: &[i64] = &[
    libc::SYS_ppoll,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_kill,
    libc::SYS_pidfd_send_signal,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// Installs both programs on this thread.
pub(super) fn filter(needs: &Needs<'_>) -> Layer {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)
        .map_err(|_| "not known for this architecture".to_owned())?;
    let programs = [
        killing(architecture),
        refusing(architecture, needs, std::process::id()),
    ];
    for program in programs {
        let program = program.map_err(|_| "cannot be built".to_owned())?;
        apply_filter(&program).map_err(|error| match error {
            Error::Prctl(error) | Error::Seccomp(error) => error.to_string(),
            _ => "not as the kernel wants it".to_owned(),
        })?;
    }
    Ok(())
}

/// Kills for what is on the list, and lets everything else through.
fn killing(architecture: TargetArch) -> Result<BpfProgram, BackendError> {
    let rules = KILLED.iter().map(|&call| (call, Vec::new())).collect();
    SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::KillProcess,
        architecture,
    )?
    .try_into()
}

/// Lets through what is on a list, and refuses everything else. `own` is our own process.
fn refusing(architecture: TargetArch, needs: &Needs<'_>, own: u32) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    // An empty rule lets through whatever the arguments.
    let lists = [
        LET_THROUGH,
        if needs.claims.is_some() { FOR_CLAIMS } else { &[] },
        if needs.children { FOR_CHILDREN } else { &[] },
    ];
    rules.extend(lists.into_iter().flatten().map(|&call| (call, Vec::new())));
    let executable = u64::from(libc::PROT_EXEC.unsigned_abs());
    for call in UNLESS_EXECUTABLE {
        rules.insert(*call, vec![only(2, SeccompCmpOp::MaskedEq(executable), 0)?]);
    }
    // abort(3), for a panic: it raises the signal in its own process.
    rules.insert(libc::SYS_tgkill, vec![only(0, SeccompCmpOp::Eq, own.into())?]);
    let refused = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    SeccompFilter::new(rules, refused, SeccompAction::Allow, architecture)?.try_into()
}

/// The rule that argument number `argument` compares so with `value`.
fn only(argument: u8, how: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        how,
        value,
    )?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    const OWN: u32 = 4242;

    /// One system call as a program sees it (`struct seccomp_data`, seccomp(2)).
    #[derive(Clone, Copy)]
    struct Call {
        number: u32,
        architecture: u32,
        arguments: [u64; 6],
    }

    fn call(number: i64) -> Call {
        Call {
            number: u32::try_from(number).unwrap(),
            architecture: native(),
            arguments: [0; 6],
        }
    }

    /// AUDIT_ARCH_… of this machine (linux/audit.h).
    fn native() -> u32 {
        match std::env::consts::ARCH {
            "x86_64" => 0xc000_003e,
            "aarch64" => 0xc000_00b7,
            other => panic!("no filter for {other}"),
        }
    }

    /// What the kernel's interpreter would return: the few instructions that seccompiler writes.
    fn run(program: &BpfProgram, call: Call) -> u32 {
        let mut words = vec![call.number, call.architecture, 0, 0];
        for argument in call.arguments {
            words.extend([argument & 0xffff_ffff, argument >> 32].map(|half| u32::try_from(half).unwrap()));
        }
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let step = &program[at];
            let k = usize::try_from(step.k).unwrap();
            at += 1;
            let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
            match step.code {
                0x20 => accumulator = words[k / 4],
                0x54 => accumulator &= step.k,
                0x05 => at += k,
                0x15 => at += jump(accumulator == step.k),
                0x25 => at += jump(accumulator > step.k),
                0x35 => at += jump(accumulator >= step.k),
                0x06 => return step.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn here() -> TargetArch {
        std::env::consts::ARCH.try_into().unwrap()
    }

    /// The kernel's choice among both programs' verdicts: the stricter one (seccomp(2)).
    fn verdict(needs: &Needs<'_>, call: Call) -> u32 {
        let killing = run(&killing(here()).unwrap(), call);
        let refusing = run(&refusing(here(), needs, OWN).unwrap(), call);
        if killing == KILL { KILL } else { refusing }
    }

    #[test]
    fn every_listed_call_is_killed_or_let_through_as_its_list_says() {
        let needs = Needs::default();
        for number in KILLED {
            assert_eq!(verdict(&needs, call(*number)), KILL, "{number}");
        }
        for number in LET_THROUGH {
            assert!(!KILLED.contains(number));
            assert_eq!(verdict(&needs, call(*number)), ALLOW, "{number}");
        }
    }

    #[test]
    fn what_only_some_logins_need_is_refused_to_the_others() {
        let directory = std::fs::File::open("/").unwrap();
        let all = Needs {
            read: &[],
            claims: Some(directory.as_fd()),
            children: true,
        };
        for number in [FOR_CLAIMS, FOR_CHILDREN].concat() {
            assert_eq!(verdict(&Needs::default(), call(number)), ENOSYS, "{number}");
            assert_eq!(verdict(&all, call(number)), ALLOW, "{number}");
        }
    }

    #[test]
    fn calls_that_are_on_no_list_are_refused_also_those_that_no_kernel_has_yet() {
        let forbidden = [
            libc::SYS_socket,
            libc::SYS_clone,
            libc::SYS_kill,
            libc::SYS_prctl,
            9999,
        ];
        for number in forbidden {
            assert_eq!(verdict(&Needs::default(), call(number)), ENOSYS, "{number}");
        }
    }

    #[test]
    fn memory_is_never_made_executable() {
        for number in UNLESS_EXECUTABLE {
            for (protection, expected) in [
                (libc::PROT_NONE, ALLOW),
                (libc::PROT_READ | libc::PROT_WRITE, ALLOW),
                (libc::PROT_READ | libc::PROT_EXEC, ENOSYS),
                (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC, ENOSYS),
            ] {
                let mut call = call(*number);
                call.arguments[2] = u64::try_from(protection).unwrap();
                assert_eq!(
                    verdict(&Needs::default(), call),
                    expected,
                    "{number} {protection}"
                );
            }
        }
    }

    #[test]
    fn a_signal_is_sent_to_nobody_but_ourselves() {
        let mut signal = call(libc::SYS_tgkill);
        signal.arguments[0] = u64::from(OWN);
        assert_eq!(verdict(&Needs::default(), signal), ALLOW);
        signal.arguments[0] = 1;
        assert_eq!(verdict(&Needs::default(), signal), ENOSYS);
    }

    #[test]
    fn another_machines_calls_are_killed_and_x32s_refused() {
        // write(2) of i386 and of 32-bit ARM: 4.
        for architecture in [0x4000_0003, 0x4000_0028] {
            let foreign = Call {
                architecture,
                ..call(4)
            };
            assert_eq!(verdict(&Needs::default(), foreign), KILL);
        }
        // __X32_SYSCALL_BIT (asm/unistd.h).
        let x32 = call(libc::SYS_write | 0x4000_0000);
        assert_eq!(verdict(&Needs::default(), x32), ENOSYS);
    }
}
