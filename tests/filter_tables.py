"""Tables of rclone's own tests of its filters (1.75, `fs/filter/*_test.go`), as data."""

from __future__ import annotations

EXPRESSIONS: tuple[tuple[str, str], ...] = (
    ("", "(^|/)$"),
    ("potato", "(^|/)potato$"),
    ("potato,sausage", "(^|/)potato,sausage$"),
    ("/potato", "^potato$"),
    ("potato?sausage", "(^|/)potato[^/]sausage$"),
    ("potat[oa]", "(^|/)potat[oa]$"),
    ("potat[a-z]or", "(^|/)potat[a-z]or$"),
    ("potat[[:alpha:]]or", "(^|/)potat[[:alpha:]]or$"),
    ("'.' '+' '(' ')' '|' '^' '$'", r"(^|/)'\.' '\+' '\(' '\)' '\|' '\^' '\$'$"),
    ("*.jpg", r"(^|/)[^/]*\.jpg$"),
    ("a{b,c,d}e", "(^|/)a(b|c|d)e$"),
    ("a{b,{c,d}}e", "(^|/)a(b|(c|d))e$"),
    ("{a,b/{c,d}/**}", "(^|/)(a|b/(c|d)/.*)$"),
    ("potato**", "(^|/)potato.*$"),
    ("potato**sausage", "(^|/)potato.*sausage$"),
    ("*.p[lm]", r"(^|/)[^/]*\.p[lm]$"),
    (r"[\[\]]", r"(^|/)[\[\]]$"),
    ("*.{jpg,png,gif}", r"(^|/)[^/]*\.(jpg|png|gif)$"),
    (r"a\*b", r"(^|/)a\*b$"),
    (r"a\\b", r"(^|/)a\\b$"),
    ("a{{.*}}b", "(^|/)a(.*)b$"),
    ("{{regexp}}", "(^|/)(regexp)$"),
    (r"\{{{regexp}}", r"(^|/)\{(regexp)$"),
    ("/{{regexp}}", "^(regexp)$"),
    (r"/{{\d{8}}}", r"^(\d{8})$"),
    (r"/{{\}}}", r"^(\})$"),
    ("{{(?i)regexp}}", "(^|/)((?i)regexp)$"),
)
"""A pattern, and its expression."""

REFUSED: tuple[tuple[str, str], ...] = (
    ("***potato", "too many stars"),
    ("***", "too many stars"),
    ("ab]c", "mismatched ']'"),
    ("ab[c", "mismatched '[' and ']'"),
    ("ab{x{cd", "mismatched '{' and '}'"),
    ("ab{}}cd", "mismatched '{' and '}'"),
    ("ab}c", "mismatched '{' and '}'"),
    ("ab{c", "mismatched '{' and '}'"),
    ("[a--b]", "bad glob pattern"),
    ("a{{.*}", "mismatched '{{' and '}}'"),
)
"""A pattern that is refused, and words of the reason."""

FOLDERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("*", ("/**",)),
    ("/*", ("/",)),
    ("*.jpg", ("/**",)),
    ("/*.jpg", ("/",)),
    ("//*.jpg", ("/",)),
    ("///*.jpg", ("/",)),
    ("/a/*.jpg", ("/a/", "/")),
    ("/a//*.jpg", ("/a/", "/")),
    ("/a///*.jpg", ("/a/", "/")),
    ("/a/b/*.jpg", ("/a/b/", "/a/", "/")),
    ("a/*.jpg", ("a/",)),
    ("a/b/*.jpg", ("a/b/", "a/")),
    ("*/*/*.jpg", ("*/*/", "*/")),
    ("a/b/", ("a/b/", "a/")),
    ("a/b", ("a/",)),
    ("a/b/*.{jpg,png,gif}", ("a/b/", "a/")),
    ("/a/{jpg,png,gif}/*.{jpg,png,gif}", ("/a/{jpg,png,gif}/", "/a/", "/")),
    ("a/{b,{c,d}}/*.jpg", ("/**",)),
    ("a/{a,a*b,a**c}/d/", ("/**",)),
    ("/a/{a,a*b,a/c,d}/d/", ("/**",)),
    ("/a/{{.*}}/d/", ("/**",)),
    ("**", ("**/",)),
    ("a**", ("a**/",)),
    ("a**b", ("a**/",)),
    ("a**b**c**d", ("a**b**c**/", "a**b**/", "a**/")),
    ("a**b/c**d", ("a**b/c**/", "a**b/", "a**/")),
    (
        "/A/a**b/B/c**d/C/",
        (
            "/A/a**b/B/c**d/C/",
            "/A/a**b/B/c**d/",
            "/A/a**b/B/c**/",
            "/A/a**b/B/",
            "/A/a**b/",
            "/A/a**/",
            "/A/",
            "/",
        ),
    ),
    ("/var/spool/**/ncw", ("/var/spool/**/", "/var/spool/", "/var/", "/")),
    ("var/spool/**/ncw/", ("var/spool/**/ncw/", "var/spool/**/", "var/spool/", "var/")),
    ("/file1.jpg", ("/",)),
    ("/file2.png", ("/",)),
    ("/*.jpg", ("/",)),
    ("/*.png", ("/",)),
    ("/potato", ("/",)),
    ("/sausage1", ("/",)),
    ("/sausage2*", ("/",)),
    ("/sausage3**", ("/sausage3**/", "/")),
    ("/a/*.jpg", ("/a/", "/")),
)
"""A pattern, and the patterns of the folders above its objects."""

MATCHES: tuple[tuple[str, str, bool, bool], ...] = (
    ("file.jpg", "file.jpg", False, True),
    ("file.jpg", "directory/file.jpg", False, True),
    ("file.jpg", "afile.jpg", False, False),
    ("file.jpg", "directory/afile.jpg", False, False),
    ("/file.jpg", "file.jpg", False, True),
    ("/file.jpg", "afile.jpg", False, False),
    ("/file.jpg", "directory/file.jpg", False, False),
    ("*.jpg", "file.jpg", False, True),
    ("*.jpg", "directory/file.jpg", False, True),
    ("*.jpg", "file.jpg/anotherfile.png", False, False),
    ("dir/**", "dir/file.jpg", False, True),
    ("dir/**", "dir/dir1/dir2/file.jpg", False, True),
    ("dir/**", "directory/file.jpg", False, False),
    ("dir/**", "adir/file.jpg", False, False),
    ("l?ss", "less", False, True),
    ("l?ss", "lass", False, True),
    ("l?ss", "floss", False, False),
    ("h[ae]llo", "hello", False, True),
    ("h[ae]llo", "hallo", False, True),
    ("h[ae]llo", "hullo", False, False),
    ("{one,two}_potato", "one_potato", False, True),
    ("{one,two}_potato", "two_potato", False, True),
    ("{one,two}_potato", "three_potato", False, False),
    ("{one,two}_potato", "_potato", False, False),
    (r"\*.jpg", "*.jpg", False, True),
    (r"\\.jpg", r"\.jpg", False, True),
    (r"\[one\].jpg", "[one].jpg", False, True),
    ("potato", "potato", False, True),
    ("potato", "POTATO", False, False),
    ("potato", "potato", True, True),
    ("potato", "POTATO", True, True),
)
"""A pattern of an include, a name, whether case is ignored, and whether the name is chosen."""

RULES = (
    *("+ cleared", "!", "- /file1.jpg", "+ /file2.png", "+ /*.jpg", "- /*.png", "- /potato"),
    *("+ /sausage1", "+ /sausage2*", "+ /sausage3**", "+ /a/*.jpg", "- *"),
)
RULES_CHOOSE: tuple[tuple[str, bool], ...] = (
    ("cleared", False),
    ("file1.jpg", False),
    ("file2.png", True),
    ("FILE2.png", False),
    ("afile2.png", False),
    ("file3.jpg", True),
    ("file4.png", False),
    ("potato", False),
    ("sausage1", True),
    ("sausage1/potato", False),
    ("sausage2potato", True),
    ("sausage2/potato", False),
    ("sausage3/potato", True),
    ("a/one.jpg", True),
    ("a/one.png", False),
    ("unicorn", False),
)
"""Which objects `RULES` choose."""
RULES_LIST: tuple[tuple[str, bool], ...] = (
    ("sausage1/", False),
    ("sausage2/", False),
    ("sausage2/sub/", False),
    ("sausage2/sub/dir/", False),
    ("sausage3/", True),
    ("SAUSAGE3/", False),
    ("sausage3/sub/", True),
    ("sausage3/sub/dir/", True),
    ("sausage4/", False),
    ("a/", True),
)
"""Which folders `RULES` list."""

REGEXP_RULES = (r"+ /{{file\d+\.png}}", r"+ *.{{(?i)jpg}}", r"- *")
REGEXP_RULES_CHOOSE: tuple[tuple[str, bool], ...] = (
    ("file2.png", True),
    ("sub/file2.png", False),
    ("file123.png", True),
    ("File123.png", False),
    ("something.jpg", True),
    ("deep/path/something.JPG", True),
    ("something.gif", False),
)

RULE_LINES: tuple[tuple[bool, str, tuple[str, ...], tuple[str, ...]], ...] = (
    (False, "potato", ("- (^|/)potato$",), ()),
    (True, "potato", ("+ (^|/)potato$",), ("+ ^.*$",)),
    (False, "potato/", ("- (^|/)potato/.*$",), ("- (^|/)potato/.*$",)),
    (True, "potato/", (), ("+ (^|/)potato/$",)),
    (False, "*", ("- (^|/)[^/]*$",), ("- ^.*$",)),
    (True, "*", ("+ (^|/)[^/]*$",), ("+ ^.*$",)),
    (
        *(False, ".*{,/**}"),
        *((r"- (^|/)\.[^/]*(|/.*)$",), (r"- (^|/)\.[^/]*(|/.*)$",)),
    ),
    (
        *(True, "a/b/c/d"),
        *(("+ (^|/)a/b/c/d$",), ("+ (^|/)a/b/c/$", "+ (^|/)a/b/$", "+ (^|/)a/$")),
    ),
)
"""Whether a pattern includes, the pattern, and its rules of objects and of folders."""

PARTS_OF_FOUR: tuple[tuple[str, int], ...] = (
    ("file1.jpg", 0),
    ("FILE1.jpg", 0),
    ("file2.jpg", 2),
    ("File2.jpg", 2),
    ("file3.jpg", 1),
    ("file4.jpg", 2),
    ("file5.jpg", 0),
    ("file6.jpg", 1),
    ("file7.jpg", 3),
    ("file8.jpg", 3),
    ("file9.jpg", 1),
    ("fil\u00e91.jpg", 3),
    ("file\u03011.jpg", 3),
    ("hellofil\u00e91.jpg", 2),
    ("HELLOfile\u03011.jpg", 2),
    ("hello1fil\u00e91.jpg", 1),
    ("Hello1file\u03011.jpg", 1),
)
"""A name, and its part of four. Two forms of one accent are in the same part."""

SIZES: tuple[tuple[str, int | None], ...] = (
    ("0", 0),
    ("1b", 1),
    ("102B", 102),
    ("0.1k", 102),
    ("0.1", 102),
    *((f"1{unit}", 1024) for unit in ("K", "k", "KI", "Ki", "kI", "ki", "KiB", "kib", "")),
    ("2.5", 2560),
    ("1M", 1024**2),
    ("1Mi", 1024**2),
    ("1MiB", 1024**2),
    ("1.g", 1024**3),
    ("10G", 10 * 1024**3),
    ("10T", 10 * 1024**4),
    ("10P", 10 * 1024**5),
    ("off", None),
    ("OFF", None),
)
SIZES_REFUSED = ("", "1q", "1.q", "-1K", "1i", "1iB", "1MB")
SIZES_SHOWN: tuple[tuple[int, str], ...] = (
    (0, "0 B"),
    (102, "102 B"),
    (1024, "1 KiB"),
    (1024**2, "1 MiB"),
    (1024**3, "1 GiB"),
    (10 * 1024**3, "10 GiB"),
    (int(10.1 * 1024**3), "10.100 GiB"),
    (10 * 1024**4, "10 TiB"),
    (10 * 1024**5, "10 PiB"),
    (1024**6, "1 EiB"),
)

AGES: tuple[tuple[str, float], ...] = (
    ("0", 0),
    ("1ms", 0.001),
    ("1s", 1),
    ("1m", 60),
    ("1.5m", 90),
    ("1h", 3600),
    ("1d", 86400),
    ("1w", 7 * 86400),
    ("1M", 30 * 86400),
    ("1y", 365 * 86400),
    ("1.5y", 365 * 86400 * 1.5),
    ("-1s", -1),
    ("1.s", 1),
    ("1h2m3s", 3723),
)
"""An age, in seconds."""
AGES_REFUSED = ("", "1x", "1d2h", "400y", "2026-13-01", "2026-01-01T25:00:00", "yesterday")
