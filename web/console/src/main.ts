import "duolink-style/style.css";
import { themeButton } from "duolink-style/theme";

themeButton(document.querySelector("#theme") as HTMLButtonElement);
