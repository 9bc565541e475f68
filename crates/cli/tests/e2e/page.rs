//! The HTML report in a real browser, wide and narrow, light and dark.

use std::path::Path;
use std::process::Command;

use crate::support::{Scratch, turn};

#[test]
fn the_page_shows_its_matrix_at_1280_and_390_pixels() {
    let _turn = turn();
    let scratch = Scratch::new("page");
    let page = scratch.path().join("report.html");
    scratch.prove(&["-t", "TERM,KILL,panic-main", "--html", page.to_str().unwrap()]);
    let html = std::fs::read_to_string(&page).unwrap();
    for outside in ["http://", "https://", "src=", "<link", "@import"] {
        assert!(!html.contains(outside), "the page asks for {outside}");
    }

    let shots = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for (name, width, dark) in [("1280", 1280, false), ("390", 390, false), ("1280-dark", 1280, true)] {
        let shot = shots.join(format!("report-{name}.png"));
        let dom = chromium(scratch.path(), &page, width, dark, &shot);
        assert!(dom.contains("What was lost"), "{dom}");
        let png = std::fs::read(&shot).unwrap();
        // IHDR: the width is the big-endian word at byte 16.
        let wide = u32::from_be_bytes(png[16..20].try_into().unwrap());
        assert_eq!(wide, width);
        assert!(png.len() > 20_000, "{} bytes: an empty page", png.len());
    }
}

#[test]
fn nothing_sticks_out_of_a_phones_screen() {
    let _turn = turn();
    let scratch = Scratch::new("phone");
    let page = scratch.path().join("report.html");
    scratch.prove(&["-t", "TERM,KILL", "--html", page.to_str().unwrap()]);
    // The page itself has no script: this copy measures it.
    let html = std::fs::read_to_string(&page).unwrap();
    let measure = "<script>document.title = 'wide ' + document.documentElement.scrollWidth + ' of ' + innerWidth;</script></body>";
    std::fs::write(&page, html.replace("</body>", measure)).unwrap();
    let dom = chromium(scratch.path(), &page, 390, false, &scratch.path().join("shot.png"));
    let title = dom.split("<title>").nth(1).and_then(|rest| rest.split("</title>").next()).unwrap();
    let numbers: Vec<u32> = title.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(matches!(numbers[..], [wide, inner] if wide <= inner), "{title}");
}

/// Takes a screenshot, and gives the page as the browser has it.
fn chromium(home: &Path, page: &Path, width: u32, dark: bool, shot: &Path) -> String {
    let run = |action: String| {
        let mut command = Command::new("chromium");
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--hide-scrollbars", "--force-device-scale-factor=1"])
            .arg(format!("--user-data-dir={}", home.join("browser").display()))
            .arg(format!("--window-size={width},2400"))
            .arg(action)
            .arg(format!("file://{}", page.display()))
            .env("HOME", home);
        if dark {
            command.arg("--force-dark-mode").arg("--blink-settings=preferredColorScheme=0");
        }
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("chromium: {error}; `cargo xtask test` installs it"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    run(format!("--screenshot={}", shot.display()));
    run("--dump-dom".to_owned())
}
