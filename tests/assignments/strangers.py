"""What a submission may try that wants more than marks, and what a folder of them may hold."""

# Looks for whatever is not its own: files, sockets, descriptors, the environment, the terminal.
INTRUDER = """
import json
import os
import socket

seen = {"wrote": [], "read": [], "reached": []}
for path in (ROOT + "/mixer_lite/x.py", ROOT + "/x", "/usr/x", "/etc/x", PROBE + "/x",
             "../kernels/python3/kernel.json", "../../kernel.json"):
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(json.dumps({"argv": ["touch", PROBE + ".ran"], "display_name": "x"}))
        seen["wrote"].append(path)
    except OSError:
        pass
for place in PLACES:
    for folder, inner, names in os.walk(place):
        inner[:] = [name for name in inner if os.path.join(folder, name) not in SHOWN]
        seen["read"] += [os.path.join(folder, name) for name in names]
    if os.path.isfile(place):
        seen["read"].append(place)
try:
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(SOCKET)
    seen["reached"].append("socket")
except OSError:
    pass
for number in range(3, 64):
    try:
        if b"A SECRET" in os.pread(number, 100, 0):
            seen["reached"].append("descriptor")
    except OSError:
        pass
seen["environment"] = "A SECRET" in str(dict(os.environ))
os.write(1, b"FORGED\\x1b[31m")
os.write(2, b"FORGED")
with open("seen.json", "w") as file:
    json.dump(seen, file)
print("SEEN", json.dumps(seen))
"""
LEAVE = """
import os
import shutil

for name in ("work", "runtime", "home", "s1", "given", "root"):
    for parent in ("..", "../..", "/box"):
        try:
            shutil.rmtree(os.path.join(parent, name), ignore_errors=True)
            os.symlink(os.path.dirname(PROBE), os.path.join(parent, name))
        except OSError:
            pass
os._exit(0)
"""

# Replaces the method that judges.
_JUDGE = "type(it).examine = lambda self, *rest: (self.next_token()[1], None)"
THIEVES = {
    "gc": f"""
import gc

for it in gc.get_objects():
    if type(it).__name__ == "Examiner":
        {_JUDGE}
""",
    "shell": f"""
execute = type(get_ipython().kernel).do_execute
for cell in execute.__closure__:
    it = cell.cell_contents
    if hasattr(type(it), "examine"):
        {_JUDGE}
""",
    "frames": f"""
try:
    raise ValueError
except ValueError as error:
    frame = error.__traceback__.tb_frame
while frame:
    for it in list(frame.f_locals.values()):
        for cell in getattr(getattr(type(it), "do_execute", None), "__closure__", None) or ():
            it = cell.cell_contents
            if hasattr(type(it), "examine"):
                {_JUDGE}
    frame = frame.f_back
""",
    "memory": """
import ctypes

ctypes.string_at(id(ctypes), 8)
""",
}

# Four processes that share nothing take what one may have; so do files without a name.
CHILDREN = """
import mmap
import os
import time

for _ in range(4):
    if not os.fork():
        held = mmap.mmap(-1, 400_000_000)
        for at in range(0, len(held), 4096):
            held[at] = 1
        time.sleep(60)
        os._exit(0)
time.sleep(30)
"""
FILES = """
import os
import time

written = 0
try:
    for number in range(10):
        with open(f"/tmp/{number}", "wb") as file:
            for _ in range(100):
                written += file.write(bytes(1_000_000))
except OSError:
    pass
print("WRITTEN", written)
unnamed = [os.memfd_create("x") for _ in range(20)]
for end in unnamed:
    for _ in range(100):
        os.write(end, bytes(1_000_000))
time.sleep(30)
"""

# A page of feedback or of marking that does something when it is opened.
ACTIVE = """
from IPython.display import HTML, SVG, Javascript, Latex, Markdown, display

display(HTML("<script>window.hit = 1</script><img src=x onerror='window.hit = 2'>"))
display(Javascript("window.hit = 3"))
display(SVG('<svg xmlns="http://www.w3.org/2000/svg" onload="window.hit = 4"></svg>'))
display(Markdown("<img src=x onerror='window.hit = 5'>"))
display(Latex(r"$\\\\href{javascript:window.hit=6}{x}$"))
display({"image/png": "x\\" onerror=\\"window.hit = 7"}, raw=True)
display({"text/plain": "x", "image/png": "aGk="}, raw=True,
        metadata={"image/png": {"width": "1 onload=window.hit=8"}})
display({"application/vnd.jupyter.widget-view+json": {"model_id": "x"}}, raw=True)
"""
ACTIVE_WORDS = """
Two axes: rows < columns, and `a<b`. <script>window.hit = 9</script>
<img src=x onerror="window.hit = 10"> <svg onload="window.hit = 11"> <a href="javascript:1">x</a>
[a](javascript:window.hit=12) [b](JaVaScRiPt&#58;window.hit=13) [c](data:text/html;base64,PHM=)
![d](x" onerror="window.hit=14) $\\href{javascript:window.hit=15}{y}$ <!-- <b> -->
"""
