//! The helper in the containers of the tests.
//!
//! `enter ROOT USER PROGRAM ARGUMENTS…` changes the root directory to ROOT, unmounts everything else, and
//! executes the program. `orphans N` starts N processes and exits before they do; `nap` is one of them.

#![allow(clippy::expect_used)]

use std::error::Error;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{chdir, pivot_root};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["enter", root, user, program, ref arguments @ ..] => {
            let user: u32 = user.parse()?;
            chdir(root)?;
            // The old root is stacked on the new one, and is then detached (pivot_root(2)).
            pivot_root(".", ".")?;
            unmount(".", UnmountFlags::DETACH)?;
            chdir("/")?;
            Err(Command::new(program).args(arguments).uid(user).gid(user).exec().into())
        }
        ["orphans", count] => {
            let this = std::env::current_exe()?;
            for _ in 0..count.parse()? {
                Command::new(&this).arg("nap").spawn()?;
            }
            Ok(())
        }
        ["nap"] => {
            std::thread::sleep(Duration::from_millis(50));
            Ok(())
        }
        _ => Err(format!("not understood: {words:?}").into()),
    }
}
