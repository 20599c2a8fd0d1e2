//! What an application does with sqlx's library, for the tests.
//!
//!     app embedded URL        apply the registry's migrations, which are part of the program
//!     app run DIRECTORY URL   apply the migrations of a directory
//!     app undo DIRECTORY TARGET URL
//!     app hold DIRECTORY URL  the same as run, but keep the pool open, whatever happened, until the input ends
//!     app names DIRECTORY     say how sqlx reads file names: each line of the input is a name in hexadecimal; the
//!                             answer is `ignored`, `refused`, or kind, version and description (in hexadecimal).
//!                             The directory must be empty, and better be in memory.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, BufRead, BufWriter, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::{env, fs};

use sqlx::migrate::{resolve_blocking, MigrationType, Migrator};
use sqlx::PgPool;

static EMBEDDED: Migrator = sqlx::migrate!("../../../sql/migrations");

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["embedded", url] => EMBEDDED.run(&PgPool::connect(url).await?).await?,
        ["run", directory, url] => Migrator::new(Path::new(directory)).await?.run(&PgPool::connect(url).await?).await?,
        ["undo", directory, target, url] => {
            let pool = PgPool::connect(url).await?;
            Migrator::new(Path::new(directory)).await?.undo(&pool, target.parse()?).await?
        }
        ["hold", directory, url] => {
            let pool = PgPool::connect(url).await?;
            let outcome = Migrator::new(Path::new(directory)).await?.run(&pool).await;
            println!("{}", if outcome.is_ok() { "done" } else { "failed" });
            io::stdin().lock().lines().for_each(drop);
        }
        ["names", directory] => names(Path::new(directory))?,
        _ => return Err("see the comment at the top of main.rs".into()),
    }
    Ok(())
}

fn names(directory: &Path) -> Result<(), Box<dyn Error>> {
    let mut output = BufWriter::new(io::stdout().lock());
    for line in io::stdin().lock().lines() {
        let file = directory.join(OsString::from_vec(bytes(&line?)?));
        fs::write(&file, "")?;
        match resolve_blocking(directory) {
            Err(_) => writeln!(output, "refused")?,
            Ok(found) => match found.first() {
                None => writeln!(output, "ignored")?,
                Some((migration, _)) => {
                    let kind = match migration.migration_type {
                        MigrationType::Simple => "simple",
                        MigrationType::ReversibleUp => "up",
                        MigrationType::ReversibleDown => "down",
                    };
                    writeln!(output, "{kind} {} {}", migration.version, hexadecimal(migration.description.as_bytes()))?
                }
            },
        }
        fs::remove_file(&file)?;
    }
    Ok(())
}

fn bytes(text: &str) -> Result<Vec<u8>, std::num::ParseIntError> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16)).collect()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
