r"""Pairs of answers that mean the same and that do not, each tried in both directions: an LLM may write either."""

# ruff: noqa: RUF001  (look-alikes are what some pairs are about)

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import pytest

from kv_gym.problems.grading import same_answer, warm_up

SAME = r"""
# characters
90° | 90
90^{\circ} | 90°
½ | \frac{1}{2}
¼ | 0.25
⅔ | \frac23
2½ | 2.5
１２３ | 123
–5 | -5
−5 | -5
﹣5 | -5
x – 3 | x-3
\sin 30° | \frac12
∅ | \varnothing
√12 | 2√3
2π | 2\pi
x² | x^2
x¹² | x^{12}
£5 | 5
¾ | 75\%
⅓ | \frac13
1⅓ | \frac43
x⁻¹ | \frac1x
x₁ | x_1
√(12) | 2\sqrt3
√2/2 | \frac{\sqrt2}{2}
∛8 | 2
3×4 | 12
3·4 | 12
6÷2 | 3
α+β | \alpha+\beta
2θ | 2\theta
λ | \lambda
≤3 | ≤3
x≤3 | (-\infty,3]
x∈{1,2} | \{1,2\}
(−∞, 3) | (-\infty,3)
—5 | -5
\infty | ∞
# units, currency and angles
90^\circ | 90
90 \text{ degrees} | 90^\circ
90 degrees | 90
\$1,000 | 1000
\tan 45^\circ | 1
\cos 60^{\circ} | 0.5
50 percent | 50\%
50 \text{ percent} | 0.5
\$18.90 | 18.9
18.90 \text{ dollars} | \$18.90
5.4 \text{ cents} | \$0.054
15 | 15\mbox{ cm}^2
15 \text{ square cm} | 15\mbox{ cm}^2
15\text{ cm}^2 | 15\mbox{ cm}^2
864 in^2 | 864 \mbox{ inches}^2
5 \text{ km} | 5000 \text{ m}
36 \text{ km/h} | 10 \text{ m/s}
10 \mathrm{m}/\mathrm{s} | 10 \text{ m/s}
10 \text{ m s}^{-1} | 10 \text{ m/s}
60 miles per hour | 60 \text{ mph}
5 apples | 5
5 \text{ apples} | 5
5 apples | 5 \text{ apple}
4 \text{ million} | 4000000
4 million dollars | 4,000,000
$7$ | 7
\angle ABC = 30^\circ | 30
\theta = 30^\circ | 30^\circ
30^\circ, 60^\circ | 30, 60
(30^\circ, 60^\circ) | (30,60)
\$ 5 | 5
5\$ | 5
5 \$ | 5
USD 5 | 5
\text{\$}5 | 5
\$5 \text{ million} | 5000000
5\text{ dollars} | \$5
5\ \text{cm} | 5 cm
5\,\mathrm{cm} | 5\text{ centimeters}
5\text{cm} | 5
5cm | 5
5\text{ cm}^{2} | 5\text{ square centimeters}
5\text{ m}^3 | 5 cubic meters
2\pi\text{ cm} | 2\pi
2\sqrt{3} \text{ units} | 2\sqrt3
12\text{ square units} | 12
5 \text{ hours} | 300 \text{ minutes}
7 \text{ days} | 7
8:00 \text{ p.m.} | 8:00 \text{ p.m.}
3\frac{1}{2} \text{ hours} | 3.5
mg | gm
\text{$5$} | 5
\text{5 cm} | 5
\text{5 cm} | 5 cm
2 mg | 2gm
\frac{1}{2} hr | \frac{1}{2}rh
# percentages
50\% | 50
33\frac{1}{3}\% | \frac{1}{3}
45\% | 0.45
45\% | \frac{9}{20}
0.5\% | 0.005
\frac{1}{2}\% | 0.5\%
# words, choices and labels
\text{no solution} | \emptyset
\text{(A)} | A
(A) | A
\textbf{(A)} | \text{(A)}
\mathrm{B} | \text{(B)}
204_{\text{five}} | 204_5
\text{east} | East
Evelyn | \text{Evelyn}
\triangle ABC | \triangle{ABC}
\overline{AB} | \overline{AB}
\text{(A) }  | A
A, C | C, A
\text{A, C} | A,C
\text{A and C} | A, C
(A), (C) | A, C
\text{True} | true
Yes | \text{yes}
No | \text{No}
\text{no real solutions} | \varnothing
\text{undefined} | undefined
\textbf{(C)}\ 5 | \textbf{(C)}\ 5
\text{(C)} | (C)
\boxed{\text{(C)}} | C
\mathrm{(C)} | C
\mathbf{C} | C
C | \text{C}
# alternatives and names
x=1 or x=2 | 1, 2
x=1 \text{ or } x=2 | \{1,2\}
x=1 or x=2 | x=1, x=2
x = 1 \text{ and } x = 2 | 2, 1
x \in [-2,7] | [-2,7]
5 = x | 5
5 = x | x = 5
x\in\{1,2\} | \{1,2\}
x\in\{1,2\} | 1,2
\pm 4 | 4, -4
1 \pm \sqrt{19} | 1+\sqrt{19}, 1-\sqrt{19}
\{1\pm\sqrt{5},-2\} | -2, 1-\sqrt5, 1+\sqrt5
x=5 | 5
m+n=7 | 7
a + b + c = 12 | 12
y = 2x+3 | 2x + 3
y-2x = 3 | y = 2x+3
10x-14y+22z+8=0 | 5x - 7y + 11z + 4 = 0
f(x) = x^2 | x^2
f(2) = 5 | 5
(x,y) = (1,2) | (1,2)
x=1, y=2 | (1, 2)
x = 8/2 = 4 | 4
5 | x = 5
x=1,000 | 1000
3 and 5 | 3,5
3 \text{ and } 5 | 5, 3
3, 4, and 5 | 3,4,5
3, 4, \text{ and } 5 | 3,4,5
x=-1, \frac{1}{2} | -1, 0.5
x = -1 \text{ or } \frac{1}{2} | -1, 0.5
x_1 = 1, x_2 = 2 | 1,2
x_{1,2} = 1 \pm \sqrt{2} | 1 \pm \sqrt 2
(x-2)^2+y^2=4 | x^2-4x+y^2=0
x=\pm 2 | \pm 2
x \in (0, 1) \cup (1, 2) | (0,1)\cup(1,2)
f(x)=2x+1 | 2x+1
f(x) = 2x+1 | f(x)=1+2x
y=2x+1 | y = 1+2x
2x+1 = y | y = 2x+1
x+y=1 | 2x+2y=2
2x - y + 1 = 0 | y=2x+1
n = 7 | 7
a = 1, b = 2 | b=2, a=1
(a,b) = (1,2) | (1,2)
(a, b, c) = (1, 2, 3) | (1,2,3)
A = \begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{pmatrix} 1 \\ 2 \end{pmatrix}
(1, 2) and (3, 4) | (3,4),(1,2)
(1,2) \text{ or } (3,4) | (3,4),(1,2)
\frac{\pi}{4} + k\pi, k\in\mathbb{Z} | \frac{\pi}{4} + k\pi, k\in\mathbb{Z}
5 \text{ and } 7 | 5,7
# inequalities, sets, tuples and matrices
x<3 | (-\infty, 3)
x > 3 | (3,\infty)
3>x | x<3
-2 \le x \le 7 | [-2,7]
1<x\le 3 | (1,3]
x<2 \text{ or } x>3 | (-\infty, 2) \cup (3, \infty)
x \neq 1 | (-\infty,1)\cup(1,\infty)
\varnothing | \emptyset
\{\} | \emptyset
\begin{bmatrix} 1 \\ 2 \end{bmatrix} | \begin{pmatrix} 1 \\ 2 \end{pmatrix}
1\,234 | 1234
\left( 1, 2\right) | (1,2)
\left(\frac{1}{2}, 1\right) | (0.5,1)
\sqrt[3]{8} | 2
[1;2] | [1,2]
1;2 | 1,2
\mathbb{R} \setminus \{1\} | (-\infty,1)\cup(1,\infty)
(-\infty,\infty) | \mathbb{R}
\{5\} | 5
\{(1,2),(3,4)\} | (3,4),(1,2)
(1,2),(3,4) | \{(3,4),(1,2)\}
3,5 | 5,3
(0, \infty) | x>0
0 < x | x>0
x \geq 0 | [0, \infty)
x\ge0 | [0,\infty)
(1,2)\cup(0,1) | (0,1)\cup(1,2)
(-\infty,-2)\cup(2,\infty) | x < -2 or x > 2
|x|>2 | x<-2 or x>2
[0,1] | 0\le x\le 1
0\leq x\leq 1 | x\in[0,1]
1,2,3,\ldots,10 | 1,2,3,\ldots,10
\begin{pmatrix} 0.5 \\ 1 \end{pmatrix} | \begin{pmatrix} 1/2 \\ 1 \end{pmatrix}
\left(\begin{array}{c} 1 \\ 2 \end{array}\right) | \begin{pmatrix} 1 \\ 2 \end{pmatrix}
\begin{bmatrix}1&2\\3&4\end{bmatrix} | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\left[\begin{matrix}1\\2\end{matrix}\right] | \begin{pmatrix} 1 \\ 2 \end{pmatrix}
\mathbb{R} | (-\infty,\infty)
\mathbb R | \mathbb{R}
\gcd(12,18) | 6
\max(2,3) | 3
\{2,1\} | \{1,2\}
\left\{1,2\right\} | \{1,2\}
\lbrace 1,2 \rbrace | \{1,2\}
\{ x : x > 2 \} | \{ x : x > 2 \}
(1,2), (3,4) | (3,4),(1,2)
\{(1,2)\} | (1,2)
# numbers
1e3 | 1000
2.5e+3 | 2500
1.5\times 10^{3} | 1500
0.\overline{3} | \frac{1}{3}
0.1\overline{6} | 1/6
0.\dot{3} | \frac13
0.\dot{1}4285\dot{7} | \frac{1}{7}
0.(3) | 1/3
-2.\bar{6} | -\frac{8}{3}
(1,000) | 1000
1,000, 2,000 | 1000, 2000
(1,234) | (1, 234)
\log_2 8 | 3
\log_{10} 1000 | 3
e^{i\pi} | -1
\mathrm{e}^{\mathrm{i}\pi} | -1
\mathrm{12} | 12
\textbf{12} | 12
\dfrac{1}{2} | \frac{1}{2}
\tfrac12 | 0.5
42. | 42
\alpha\beta | \beta\alpha
204_5 | 204_{5}
137\frac{1}{2} | 137.5
137 1/2 | 137 \frac{1}{2}
11,\! 111,\! 111,\! 100 | 11111111100
58,500 | 58500
2\sqrt{3} | \sqrt{12}
\binom{5}{2} | 10
5! | 120
|{-3}| | 3
2^{100} | 1267650600228229401496703205376
3:2 | \frac{3}{2}
\boxed{7} | 7
\(7\) | 7
\text{7} | 7
{7} | 7
**7** | 7
+7 | 7
7.0 | 7
1{,}234 | 1234
3{,}5 | 3.5
-\frac{1}{2} | \frac{-1}{2}
\frac{-1}{2} | \frac{1}{-2}
1 - 12i | -12i+1
\frac{20000}{\pi} | 20000/\pi
3\cdot 10^8 | 3 \times 10^8
6 \cdot 5 | 30
\lfloor 3.5 \rfloor | 3
2\lambda | \lambda+\lambda
2/3\pi | \frac{2\pi}{3}
\frac{2}{3}\pi | \frac{2\pi}{3}
-1/2 | -0.5
-\tfrac12 | -\frac12
10^{-3} | 0.001
\frac{1}{\sqrt{2}} | \frac{\sqrt{2}}{2}
i^2 | -1
\sqrt{-4} | 2i
3+4i | 4i+3
\frac{1+i}{2} | \frac{1}{2}+\frac{i}{2}
\cos\frac{\pi}{3} | \frac12
\ln(e^2) | 2
\log 100 | 2
e | e
12:30 | 12:30
2^{10} | 1024
1024_{10} | 1024
1010_2 | 1010_{2}
\text{1010}_2 | 1010_{2}
100,000 | 10^5
1,000,000 | 10^6
1.000 | 1
3.0\times 10^8 | 3\times10^8
3 \times 10^{8} | 300000000
6.02e23 | 6.02\times10^{23}
1\times10^3 | 1e3
12.5 | 12\frac12
-1\frac{1}{2} | -1.5
-1\frac{1}{2} | -\frac{3}{2}
1 \frac{1}{2} | \frac32
0.\overline{12} | \frac{12}{99}
0.\overline{9} | 1
1.\overline{3} | \frac43
0.1\dot{6} | \frac16
.\overline{3} | \frac13
0.12\overline{3} | \frac{37}{300}
\sqrt{2}\sqrt{3}-\sqrt{6} | 0
2\cdot 3^2 | 18
7\text{.} | 7
7 . | 7
\;7\; | 7
7\quad | 7
7\\ | 7
\mathbf{7} | 7
\bold{7} | 7
\color{red}{7} | 7
\textcolor{red}{7} | 7
\underline{7} | 7
\emph{7} | 7
~7 | 7
\approx 3.14 | \approx 3.14
1/3 \approx 0.333 | \frac13
2^{\log_2 8} | 8
0 | 0.0
-0 | 0
+\infty | \infty
# formulas
1.5E-2 | 0.015
\sum_{k=1}^{10} k | 55
\prod_{k=1}^{4} k | 24
\sum_{k=1}^{n} k | \frac{n(n+1)}{2}
xy | yx
2ab | 2ba
4 million | 4000000
2*sqrt(3) | 2\sqrt{3}
\cot x | \frac{\cos x}{\sin x}
\sin^2 x + \cos^2 x | 1
(x-1)(x+1) | x^2-1
\frac{x^2-1}{x-1} | x+1
n! | n(n-1)!
a+bi | bi+a
p - q | -q+p
\sin(x)\cos(x) | \frac{\sin(2x)}{2}
\frac{e^x+e^{-x}}{2} | \cosh x
\int_0^1 x^2 dx | \frac13
\lim_{x\to 0} \frac{\sin x}{x} | 1
\frac{x}{2} | 0.5x
x^{\frac12} | \sqrt{x}
x^{1/2} | \sqrt{x}
1E+3 | 1000
a^2-b^2 | (a-b)(a+b)
\frac{a}{b} | a/b
\frac{ab+ac}{a} | b+c
(a+b)^2 | a^2+2ab+b^2
\sqrt{x^2} | |x|
7 \text{ (approximately)} | 7 \text{ (approximately)}
\binom{n}{2} | \frac{n(n-1)}{2}
{n \choose 2} | \frac{n(n-1)}{2}
n(n+1)/2 | \frac{n^2+n}{2}
x\to\infty | x\to\infty
k\pi | \pi k
2xy | 2yx
R^2\pi | \pi R^2
5 cm2 | 5 \text{ cm}^2
x=\frac{-1\pm\sqrt{5}}{2} | \frac{-1+\sqrt5}{2},\frac{-1-\sqrt5}{2}
(1, \pm 2) | (1,2), (1,-2)
1 \mp 2 | 3, -1
\lg 100 | 2
\mathbb{R}-\{0\} | \mathbb{R}\setminus\{0\}
5 \text{ cm2} | 5 \text{ cm}^2
\sqrt{2}x + y = 1 | 2x + \sqrt{2}y = \sqrt{2}
2^{100000} | 4^{50000}
|x-20| | |20-x|
# conditions on several variables
x<1 and x>2 | \emptyset
x<1, x>2 | x<1 or x>2
x>1,y>2 | y>2,x>1
x>1 and y>2 | 2<y, 1<x
x>1, x<3, y>2 | y>2, 1<x<3
x<y<z | z>y>x
x\in(1,3) | 1<x<3
x<1 or y<2 | y<2 or x<1
1<x<3 | x>1 and x<3
# words behind a number that are units, and that are not
5 per cent | 0.05
5\text{ per cent} | 5\%
5 Percent | 0.05
5 Million | 5000000
5 millions | 5000000
5\text{ Million} | 5,000,000
5 red apples | 5
5 slices of pizza | 5
12 people | 12
5 apples left | 5
5\text{ apples per day} | 5
5 Km | 5000\text{ m}
5\text{ L} | 5000\text{ mL}
5 Hours | 5
1\text{ kg} | 1000\text{ g}
8 \text{ p.m.} | 8
8 \text{ PM} | 8
12 ways | 12
5 \text{ gallon} | 5 \text{ gallons}
3 months | 3
# letters, ratios, times and what an equation names
xy | yx
xyz | zyx
mn | nm
2ab | 2ba
a \cdot b | ba
no | no
6:4:2 | 3:2:1
10:15 | 2:3
3:2 | 1.5
\sqrt{2}:1 | 2:\sqrt{2}
1:2:3 | 2 : 4 : 6
2026-11-27 | 2026-11-27
x = 3:30 | 3:30
y=3, x=5 | x=5,y=3
y=3, x=5 | (5,3)
(r,\theta) = (2,\pi) | (2,\pi)
(x_1,x_2) = (1,2) | (1,2)
\angle ABC = 30 | 30
m\angle A = 30^\circ | 30
AB = 5 | 5
\overline{AB} = 5 | 5
\text{Area} = 5 | 5
\text{Area of } ABC = 5 | 5
P(A \cup B) = \frac12 | 0.5
P(2) = 5 | 5
f^{-1}(x) = 2x | 2x
\lambda_1 = 5 | 5
\theta = 5 | 5
\mathbf{v} = (1,2) | (1,2)
S_{10} = 55 | 55
Area = 5 | 5
(5) | 5
x = 1/3 \approx 0.333 | \frac13
~5 | 5
x y | yx
Total number of ways = 5 | 5
x=1/2 | \frac12
# products, factorials, powers, arguments without braces and numerals
2(1/2) | 1
2\left(\frac12\right) | 1
3(\frac23) | 2
2\frac12 | 2.5
\log_{2}(1/2) | -1
\log_2(1/2) | -1
0{,}125 | 0.125
5!! | 15
6!! | 48
2^{3^2} | 512
\frac\pi2 | \pi/2
\frac1\pi | 1/\pi
\frac\alpha\beta | \alpha/\beta
\frac\sqrt32 | \frac{\sqrt3}{2}
\frac{\sqrt3}\pi | \sqrt{3}/\pi
\frac x2 | x/2
\frac xy | x/y
\frac12\pi | \pi/2
\sin\frac\pi6 | 0.5
\frac{x^{2}}2 | x^2/2
\binom52 | 10
\binom n2 | \frac{n(n-1)}{2}
\dbinom{5}{2} | 10
2^-1 | 0.5
10^-3 | 0.001
x^-1 | 1/x
\langle1,2\rangle | (1,2)
\left\langle 1,2 \right\rangle | (1,2)
five | 5
\text{five} | 5
Five | 5
twenty-one | 21
\text{Twelve} | 12
zero | 0
thirty | 30
\text{no real solutions} | no solution
# transposed matrices
5 square units | 5
5\text{ units}^2 | 5\text{ square units}
A^T | A^T
# since version 3
x^3y^2 | y^2x^3
y^3x^2 | x^2y^3
x^2y^2 | x^{2}y^{2}
9x^4y^6 | (3x^2y^3)^2
a^2b^2-c^2d^2 | (ab-cd)(ab+cd)
2^n3^n | 6^n
e^xe^y | e^{x+y}
x^2y^{-1} | \frac{x^2}{y}
No | no
No | no.
Go | go
Up | up
x=1,y=6 | 1,6
x_1=1,x_2=2 | 2,1
\angle ABC=30 | \angle CBA=30
m\angle ABC=30 | \angle ABC = 30^\circ
ABC=30 | CBA=30
p \land q | q \land p
p \land q | p and q
\sqrt[3]{-8} | -2
\sqrt[3]{-27}+1 | -2
(-8)^{1/3} | -2
\sqrt[3]{x^3} | x
\sqrt[5]{-32} | -2
\sqrt[3]{-x} | -\sqrt[3]{x}
\int_0^1 \sqrt[3]{x} dx | \frac34
5 m | 5\text{ m}
1000 m | 1\text{ km}
24 h | 1 day
500 cm | 5 m
15 cm^{2} | 15
15 cm^{2} | 15\text{ cm}^2
5^{\text{th}} | 5th
5^{\mathrm{th}} | 5\text{th}
2^{st} | (2^s)^t
5^\text{th} | 5th
\text{all real numbers} | \mathbb{R}
All real numbers | (-\infty,\infty)
\text{DNE} | \text{does not exist}
DNE | \text{Does not exist}
∠ABC=30 | 30
m∠ABC = 30° | 30
\begin{cases}x=1\\y=2\end{cases} | x=1,y=2
\begin{cases} x=1, \\[2pt] y=2 \end{cases} | (1,2)
7 \pmod{9} | 7
7 \pmod 9 | 7 \pmod{9}
12:30 pm | 12:30 PM
12:30 pm | 12:30 \text{ p.m.}
12:30 p.m. | 12:30\text{ PM}
one half | 1/2
\text{two thirds} | \frac23
three-quarters | 0.75
one half | 0.5
Bh | hB
perimeter = 5, area = 10 | 5, 10
"""

UNSEEN = [
    ("4\N{ZERO WIDTH SPACE}2", "42"),
    ("\N{ZERO WIDTH NO-BREAK SPACE}42", "42"),
    ("4\N{WORD JOINER}2\N{LEFT-TO-RIGHT MARK}", "42"),
    ("x\N{INVISIBLE TIMES}y", "xy"),
    ("1\N{NO-BREAK SPACE}234", "1234"),
    ("1\N{NARROW NO-BREAK SPACE}234", "1234"),
    ("\N{NON-BREAKING HYPHEN}5", "-5"),
    ("\N{FIGURE DASH}5", "-5"),
    ("0.3\N{COMBINING OVERLINE}", r"\frac{1}{3}"),
    ("0.1\N{COMBINING OVERLINE}2\N{COMBINING OVERLINE}", r"\frac{4}{33}"),
]

DIFFERENT = r"""
# characters
3–5 | -2
91° | 90
½ | 12
2½ | 1
x² | 2x
\$5 | £5
½ | 2
⅔ | \frac32
1½ | 11/2
x² | x_2
3–5 | 3
3-5 | 3–5
# units, currency and angles
5\text{ km} | 5\text{ cm}
5\text{ m/s} | 5 \text{ km/h}
5 cm | 5 \text{ cm}^2
5 apples | 5 \text{ oranges}
\$5 | 5 \text{ cents}
30^\circ | \frac{\pi}{6}
\frac{\pi}{2} | 90^\circ
3 p.m. | 3 \text{ a.m.}
36 \text{ km/h} | 36 \text{ m/s}
5\text{ kg} | 5\text{ g}
5\text{ hours} | 5\text{ minutes}
5\text{ m}^2 | 5\text{ m}^3
5\text{ m}^2 | 5\text{ m}
5 \text{ mi} | 5 \text{ km}
60 \text{ mph} | 60 \text{ km/h}
30^\circ\text{C} | 30^\circ\text{F}
30^\circ | 30\text{ radians}
8:00 \text{ p.m.} | 8:00 \text{ a.m.}
5 apples | 5 oranges
5 apples | 6 apples
# percentages
50\% | 0.05
50\% | 5
50\% | 5000
# words, choices and labels
AB | BA
\text{AB} | BA
\overline{AB} | \overline{BA}
seat | \text{east}
\text{(A)} | B
not Tuesday | \text{Tuesday}
\text{even} | \text{odd}
AB | AC
ABC | ACB
\triangle ABC | \triangle ACB
\vec{AB} | \vec{BA}
\angle ABC | \angle ACB
\text{A} | \text{B}
A, C | A, B
A, C | A
\text{no} | on
\text{true} | \text{false}
\text{east} | \text{west}
\text{east} | teas
stop | \text{pots}
4 \text{ at most} | 4
4 \text{ not } | 4
# alternatives and names
x=1 or x=3 | 1,2
5 = x | 4
y=5 | x=5
x=2, y=1 | x=1, y=2
4 or 14 | 4
\pm 4 | 4
1 \pm \sqrt{19} | 1+\sqrt{19}
y-2x=4 | y=2x+3
x=10^{-60} | x=10^{-61}
x=10^{-60} | 10^{-61}
\pm 2 | 2
\pm 2 | -2
1\pm 2 | 3
x=1, y=2 | x=2, y=1
(x,y)=(1,2) | (2,1)
y=2x | y=2x+1
2x+y=1 | x+2y=1
x+y=1 | x+y=2
at most 4 | 4
less than 4 | 4
f(x)=x | f(x)=-x
# inequalities, sets, tuples and matrices
\{1,2\} | (1,2)
[1,2] | (1,2)
[1,2] | \{1,2\}
(2,1) | (1,2)
\{10^{-60}\} | \{10^{-61}\}
(10^{-60}, 1) | (10^{-61}, 1)
x<3 | (-\infty,3]
x\le 3 | (-\infty, 3)
x>3 | x<3
x<3 | 3
x<3 | y<3
1,2,3 | 1,2
1,1 | 1
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{pmatrix} 2 \\ 1 \end{pmatrix}
\begin{pmatrix} 1 & 2 \end{pmatrix} | \begin{pmatrix} 1 \\ 2 \end{pmatrix}
\emptyset | 0
\emptyset | \{0\}
-x<3 | x<3
3,5 | 3,5,5
(3,5) | \{3,5\}
x<10^{-60} | x<10^{-61}
\begin{pmatrix} 10^{-60} \\ 1 \end{pmatrix} | \begin{pmatrix} 10^{-61} \\ 1 \end{pmatrix}
(1,2) | (12)
x<3 | x>3
x<3 | (3, \infty)
x\le3 | x<3
x<1 \text{ or } x>2 | 1<x<2
x<1 or x>2 | (-\infty,1)
[1,2) | (1,2]
(0,1)\cup(1,2) | (0,2)
\mathbb{R} | \mathbb{Z}
\mathbb{R}\setminus\{1\} | \mathbb{R}
\emptyset | \{\emptyset\}
\sqrt[3]{8} | \sqrt{8}
> 4 | 4
\geq 4 | 4
\{1,2\} | \{1,2,3\}
\{1,2\} | 1
{1,2} | (2,1)
\begin{pmatrix} 1 \\ 2 \end{pmatrix} | (1, 3)
\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix} | \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
# numbers
1/2006! | 1/2004!
\frac{1}{2006!} | 0
10^{-60} | 10^{-61}
204_6 | 204_5
0.(3) | 0
0.333 | \frac13
0.33333333333333333333333333333333 | 1/3
1e3 | 3e
1e4 | 1000
0.\overline{3} | 0.3
(1,000) | 1
1,234 | 1
\log_2 8 | \log_8 2
5! | 5
5!! | 5!
1/2006! | 0
\frac{1}{2006!} | \frac{1}{2005!}
2^{-1000} | 2^{-1001}
e^{-200} | e^{-201}
\frac{\pi}{10^{60}} | \frac{2\pi}{10^{60}}
10^{60} | 10^{60}+1
10^{60}\pi | 10^{60}\pi+1
0.\overline{3} | 0.33
0.\overline{12} | 0.\overline{21}
0.1\overline{6} | 0.\overline{16}
1e3 | 1e-3
1e3 | 13
1,000 | 1
(1,000) | (1,001)
1,234 | 1,243
\frac{a}{b} | \frac{b}{a}
\sin 30 | \frac12
\log_2 8 | 8
1010_2 | 1010_3
1010_2 | 1011_2
3:2 | 2:3
12:30 | 12:31
2i | 2
1+i | 1-i
i | 1
4+ | 4
4... | 4
4? | 4
\approx 4 | 5
\sim 4 | 5
\infty | -\infty
\frac{1}{3} | 0.3333333333333333333333333333333333333333333333333333333333333333
\pi | 3.14159265358979323846264338327950288419716939937510
# formulas
3R^2 | 3r^2
2 xy | 2
x^2 | x2
4 million | 4
\sum_{k=1}^{10} k | 54
|x| | x
\sqrt{x^2} | x
2t | 2
2 xyz | 2
2 abc | 2
x+10^{-60} | x+10^{-61}
-x | x
x-y | y-x
a/bc | ac/b
\sin x | \cos x
3 \text{ of } 4 | 3
n! | n
|x-1| | x-1
x^2+1 | y^2+1
R | r
X | x
a_1 | a_2
a_1 | a
\hat{x} | x
x' | x
\bar{x} | x
\vec{v} | v
7 half | 7
7 tenths | 7
7 pairs | 7
\text{A}\text{B} | A
\{1,2\},\{3\} | \{1,2,3\}
90^\circ | 90\%
(1, \pm 2) | (1, 2)
1 \mp 2 | 3
\text{(B) } 5 | \text{(C)}
7 or 8 | 7
\text{7 or 8} | 7
7 \text{ remainder } 3 | 7
3\text{ hours } 30\text{ minutes} | 3
3 feet 6 inches | 3
7 \pmod{10} | 17
7^{th} | 7
[15,-29] | (15,-29)
[1,2,3] | (1,2,3)
(1,2,3] | (1,2,3)
|x-20| | 20-x
|x-1000| | 1000-x
\max(x,7) | x
E | e
N | n
5 \text{ maybe 6} | 5
5 cm 6 | 5
5 \text{ or 6} | 5
0.1(6) | 1/6
\sqrt{2}x = 1 | 2x = \sqrt{3}
2^{100000} | 2^{100001}
# conditions on several variables
x>1,y>2 | y>1,x>2
x>1, y<2 | (1,2)
x>0 and y>0 | x>0
1<x<3 | 1<y<3
x<1 or y<2 | (-\infty,2)
x<1 or y<2 | y<1 or x<2
x<1 and x>2 | (-\infty,1)\cup(2,\infty)
x<1 and x>2 | x<1 or x>2
3<x<1 | x<1 or x>3
x<y<z | x<z<y
y\in(1,3) | 1<x<3
x>1, y>2 | x>1
x>0, y>0 | x>0 or y>0
1=2 | 3=4
# words behind a number that are units, and that are not
5 Million | 5
5 MILLION | 5
5 millions | 5
5 thousands | 5
5\text{ millions} | 5
2 Dozen | 2
3 quarters | 3
1 quarter | 1
5 sixths | 5
3 eighths | 3
2 twentieths | 2
5 millionths | 5
5 lakh | 5
5 lakhs | 5
5 crore | 5
3 zillion | 3
3 score | 3
3 gross | 3
3 trios | 3
5 double | 5
5 twice | 5
5\text{ M} | 5
5\text{K} | 5
5\text{k} | 5
5\text{B} | 5
5\text{ bn} | 5
5\text{ mil} | 5
5 negative | 5
5 factorial | 5
5\text{ factorials} | 5
5 incorrect | 5
5 undefined | 5
5 unknown | 5
5 infinity | 5
5 modulo | 5
5 below zero | 5
5 wrong | 5
5\text{ (wrong)} | 5
5\text{ (incorrect)} | 5
5\text{ below} | 5
5 remainder | 5
5 loss | 5
4 July | 4
5 mm | 5 Mm
5\text{ mm} | 5\text{ Mm}
# letters, ratios, times and what an equation names
no | on
silent | listen
left | felt
c a b | a b c
cat | act
ab | ba
my | ym
try | tyr
3:30 | 2:20
0:15 | 0:30
3:30 | 0.1
12:30 | 0.4
1:2:3 | 1:3:2
1:2:3 | 1:6
2:3:4 | 1/6
6:4:2 | 3:2
0:0 | 1:2
0:1:2 | 0:2:1
2026-11-27 | 1988
555-1234 | -679
212-555-1234 | -1577
11/27/2026 | \frac{11}{54702}
1:1:1 | 1
-x=3 | 3
|x|=3 | 3
\sqrt{x}=3 | 3
\log_2 x = 3 | 3
\ln x = 3 | 3
a-b=3 | 3
ab=6 | 6
xy=6 | 6
x^2=3 | 3
\frac{x}{y}=2 | 2
\sin x = 1 | 1
\cos\theta=1 | 1
3 = -x | 3
x(x+1)=6 | 6
(y,x)=(1,2) | (1,2)
(2,1)=(y,x) | (2,1)
y=3, x=5 | (3,5)
(y,x)=(1,2) | (x,y)=(1,2)
5 | 2 3
3 | 1 1 1
[5] | 5
[5] | (5)
x\approx 5 | 5
x≈5 | 5
\approx 5 | 5
\sqrt2 \approx 1.414 | 1.414
abcd=24 | 24
# products, factorials, powers, arguments without braces and numerals
2(1/2) | 2.5
2\left(\frac12\right) | 2.5
3(\frac23) | 3\frac23
-2(1/2) | -2.5
3 (2/3) | \frac{11}{3}
0,001 | 1
0,125 | 125
0{,}125 | 125
0 125 | 125
5!! | 120!
6!! | 720!
n!! | (n!)!
2^3^2 | 64
x^2^3 | x^6
x^{2}^{3} | x^6
\frac\pi2 | \frac2\pi
\frac123 | \frac{1}{23}
\langle1,2\rangle | (2,1)
five | 4
twenty-one | 20
sixty | 6
\text{no solution} | \text{one solution}
# more on fractions
\frac123 | \frac32
# transposed matrices
x^T | x
A^{T} | A
A^\top | A
# since version 3
2^3^2 | 512
x^{\alpha}^2 | x^{2\alpha}
x^\alpha^2 | x^{2\alpha}
x^2y^3 | x^3y^2
No | oN
No | on
Go | og
Ra | ra
6,1 | x=1,y=6
(6,1) | x=1,y=6
\angle ABC=30 | \angle BAC=30
m\angle ABC=30 | m\angle BAC=30
ABC=30 | ACB=30
\angle ABC=30 | \angle ABC=31
p \land q | p \lor q
A and C | A or C
\sqrt[3]{-8} | 2
\sqrt{-4} | -2
\sqrt[3]{x^3} | |x|
\sqrt[4]{x^4} | x
\sqrt[3]{-x} | \sqrt[3]{x}
\sqrt[3]{i} | i
\left(\frac{-1+i\sqrt{3}}{2}\right)^{1/3} | \frac{-1+i\sqrt{3}}{2}
5 m | 5
5 m | 5\text{ s}
5 m | 5\text{ km}
5 m | 5 cm
15 cm^{2} | 15\text{ cm}
15 cm^{2} | 15\text{ cm}^3
5 x^{2} | 5
5^{\text{th}} | 5
5th | 5
\text{all real numbers} | \mathbb{Z}
\text{DNE} | 0
∠ABC=30 | ∠BAC=30
\begin{cases}x=1\\y=2\end{cases} | x=2,y=1
\begin{cases}x=1\\y=2\end{cases} | y=1,x=2
\begin{cases}x & x>0\\-x & x<0\end{cases} | x
7 \pmod{9} | 7 \pmod{10}
7 \pmod{9} | 16
12:30 pm | 12:30 am
12:30 pm | 12:31 pm
one half | 2
one third | 1/2
one halfpenny | 1/2
x \equiv 7 \pmod 9 | 8
"""

ONE_WAY = [  # answer, gold, whether it is right
    ("204", "204_5", True),  # a base may be left out, as a unit may
    ("54", "204_5", False),
    ("204_5", "204", False),
    ("204_5", "54", True),
    ("58,500", "500, 58", True),  # an answer's commas may be read either way
    ("500, 58", "58,500", False),  # a bare gold one's are thousands
    ("58, 500", "58,500", False),
    (r"\text{(B) } 5", r"\text{(B)}", True),  # a choice with what it says
    ("(B) 5", "B", True),
    (r"\textbf{(B)}\ 5", "B", True),
    ("B", "(B) 5", False),
    (r"(A) \cdot 5", "A", False),
    ("Answer: A", "A", True),
    ("Choice (A)", "A", True),
    ("Option A", "A", True),
    ("A", "Option A", True),
    ("Option B", "A", False),
    ("Option A", "Option B", False),
    ("D)", "D", True),
    ("B. 12", "B", True),
    ("B. 12", "C", False),
    ("B. 12 or C. 13", "B", False),
    ("C: 12", "C", True),
    ("(B): 12", "B", True),
    ("A) or B", "A", False),
    ("(A)(B)", "A", False),
    ("(A) 5 (B) 6", "A", False),
    ("B. 12 C. 13", "B", False),
    ("Apple", "A", False),
    ("C", r"\textbf{(C)}\ 12", True),
    ("(C)", r"\textbf{(C)}\ 12", True),
    ("B", r"\textbf{(C)}\ 12", False),
    ("12", r"\textbf{(C)}\ 12", False),
    ("x=4", "4", True),
    ("x = 14 = 4", "4", False),
    ("x = 8/2 = 4", "4", True),
    ("14 = 4", "4", False),
    (r"4\text{ no, }14\text{ cm}", "4", False),
    (r"14 \text{ answer } \frac{4}{1}", "4", False),
    ("10 4", "14", False),
    ("10 4", "104", False),
    ("}{", "4", False),
    ("", "4", False),
    ("f'(x)", "f'(x)", True),
    (r"C \& D", r"C \& D", True),
]


@pytest.fixture(autouse=True, scope="module")
def _started_worker() -> None:
    warm_up()


def pairs(table: str) -> list[tuple[str, str]]:
    """(Answer, gold) of each line, one way and the other."""
    lines = [line.partition(" | ") for line in table.strip().splitlines() if not line.startswith("# ")]
    return [pair for first, _, second in lines for pair in ((first, second), (second, first))]


@pytest.mark.parametrize(("answer", "gold"), pairs(SAME))
def test_what_means_the_same_is_right(answer: str, gold: str) -> None:
    assert same_answer(answer, gold)


@pytest.mark.parametrize(("answer", "gold"), UNSEEN)
def test_characters_that_look_like_others_are_read_as_those(answer: str, gold: str) -> None:
    assert same_answer(answer, gold) and same_answer(gold, answer)


@pytest.mark.parametrize(("answer", "gold"), pairs(DIFFERENT))
def test_what_means_something_else_is_wrong(answer: str, gold: str) -> None:
    assert not same_answer(answer, gold)


@pytest.mark.parametrize(("answer", "gold", "right"), ONE_WAY)
def test_some_pairs_depend_on_which_is_the_gold_one(answer: str, gold: str, right: bool) -> None:
    assert same_answer(answer, gold) == right


def documented(column: int) -> list[tuple[str, str]]:
    """Pairs (answer, gold) of a column of the table in docs/grading.md; groups end at a semicolon."""
    page = (Path(__file__).parents[4] / "docs" / "grading.md").read_text()
    rows = [re.split(r"(?<!\\)\|", line)[2:4] for line in page.splitlines() if line.startswith("| ") and "`" in line]
    pairs = []
    for row in rows:
        for group in re.findall(r"(?:`[^`]*`|[^`;])+", row[column]):
            pairs += combinations([code.replace("\\|", "|") for code in re.findall("`([^`]*)`", group)], 2)
    return pairs


@pytest.mark.parametrize(("answer", "gold"), documented(0))
def test_what_the_page_calls_equal_is_equal(answer: str, gold: str) -> None:
    assert same_answer(answer, gold)


@pytest.mark.parametrize(("answer", "gold"), documented(1))
def test_what_the_page_calls_different_is_different(answer: str, gold: str) -> None:
    assert not same_answer(answer, gold)


def test_the_page_has_examples() -> None:
    assert len(documented(0)) > 60 and len(documented(1)) > 25
